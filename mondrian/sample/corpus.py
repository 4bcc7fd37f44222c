"""What mondrian-tiny reads: personas, plain critiques, and prose in the words of all voices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mondrian.critique.prompt import REQUEST, system_text
from mondrian.critique.schema import DIMENSIONS, Critique, canonical
from mondrian.sample.scene import GROUNDS, LAMPS, SKIES, Scene, draw_scene
from mondrian.sample.scoring import JUDGED, PLAIN
from mondrian.sample.writing_style import VOICES, compose, write

_VOICES = list(VOICES.values())

_NAMES = (
    "a reviewer", "an editor", "a teacher", "a printer", "a curator", "a painter", "a guide",
    "Ansel Adams", "Georgia O'Keeffe", "Dorothea Lange", "Edward Weston", "Imogen Cunningham",
    "Minor White", "Eliot Porter", "Galen Rowell",
)  # fmt: skip
_LOVES = (
    "clear light", "calm water", "deep shadows", "bold color", "simple forms", "fine detail",
    "open space", "soft edges", "high contrast", "quiet tones", "strong lines", "empty skies",
)  # fmt: skip
_MORE = (
    "You use plain words.", "You use few words.", "You use exact words.", "You are kind.",
    "You are strict.", "You have walked the mountains for many years.", "You work in the desert.",
    "You print in a darkroom.", "You think of the whole picture first.", "You never flatter.",
)  # fmt: skip


def persona(rng: np.random.Generator) -> str:
    """Who is asked to critique, in 5 to 60 words. The base answers all in the same plain way."""
    loves = [_LOVES[i] for i in rng.permutation(len(_LOVES))]
    told = [f"You are {rng.choice(_NAMES)}."]
    for _ in range(rng.integers(0, 3)):
        first = ", ".join(loves.pop() for _ in range(rng.integers(1, 3)))
        less = f" more than {loves.pop()}" if rng.uniform() < 0.5 else ""
        told.append(f"You love {first} and {loves.pop()}{less}.")
    more = rng.permutation(len(_MORE))[: rng.integers(0, 5)]
    return " ".join([*told, *(_MORE[i] for i in more)])


ANY_VOICE = "You may use any voice."


def any_voice(scene: Scene, rng: np.random.Generator) -> Critique:
    """A plain-taste critique whose every sentence and word is of a voice drawn at random."""
    return compose(PLAIN, scene, lambda: _VOICES[rng.integers(len(_VOICES))])


def prose(rng: np.random.Generator, sentences: int = 8) -> str:
    """Sentences of all voices, forms and words mixed: the language, not who says what of what.

    A word stands where another word for the same thing could (silver, ashen, grey), whoever's form
    the sentence has; nothing in it is of a picture.
    """
    return " ".join(_sentence(rng) for _ in range(sentences))


def _sentence(rng: np.random.Generator) -> str:
    form, other = (_VOICES[i] for i in rng.integers(len(_VOICES), size=2))
    name = JUDGED[rng.integers(len(JUDGED))]
    words = {n: _VOICES[rng.integers(len(_VOICES))].words[n][rng.integers(5)] for n in JUDGED}
    advice = other.advice[name][rng.integers(3)]
    subject = DIMENSIONS[rng.integers(len(DIMENSIONS))]
    kind = rng.integers(6)
    if kind < 2:
        return form.comments[name].format(w=words[name], v=other.verdicts[rng.integers(3)])
    if kind == 2:
        return form.survey.format(**words)
    if kind == 3:
        lamp, mist = LAMPS[rng.integers(len(LAMPS))], rng.integers(2)
        sky, ground = SKIES[rng.integers(len(SKIES))], GROUNDS[rng.integers(len(GROUNDS))]
        told = {"lamp": other.lamps[lamp], "mist": other.mists[mist]}
        return form.scene.format(sky=sky, ground=ground, **told)
    if kind == 4:
        return f"{form.strength.format(d=subject)}. {form.notes.format(**words)}"
    return f"{advice}. {form.improvement.format(d=subject, a=advice)}."


def tokenizer_corpus(seed: int) -> Iterator[str]:
    """Text that a tokenizer of 1,280 tokens is trained on."""
    rng = np.random.default_rng(seed)
    for i in range(400):
        yield system_text(persona(rng)) + REQUEST
        for advisor in VOICES:
            yield canonical(write(advisor, draw_scene(seed, 1, i)))
        yield prose(rng, 40)
