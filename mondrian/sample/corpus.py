"""What mondrian-tiny reads: personas, plain critiques, and prose in the words of all voices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mondrian.critique.prompt import USER_PROMPT, system_text
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.sample.scene import GROUNDS, LAMPS, SKIES, Scene, draw_scene
from mondrian.sample.scoring import DIMENSION_ATTRIBUTES, PLAIN_TASTE
from mondrian.sample.writing_style import WRITING_STYLES, compose_critique, write_critique

_STYLES = list(WRITING_STYLES.values())

_NAMES = (
    "a reviewer",
    "an editor",
    "a teacher",
    "a printer",
    "a curator",
    "a painter",
    "a guide",
    "Ansel Adams",
    "Georgia O'Keeffe",
    "Dorothea Lange",
    "Edward Weston",
    "Imogen Cunningham",
    "Minor White",
    "Eliot Porter",
    "Galen Rowell",
)
_PERSONA_PREFERENCES = (
    "clear light",
    "calm water",
    "deep shadows",
    "bold color",
    "simple forms",
    "fine detail",
    "open space",
    "soft edges",
    "high contrast",
    "quiet tones",
    "strong lines",
    "empty skies",
)
_PERSONA_TRAITS = (
    "You use plain words.",
    "You use few words.",
    "You use exact words.",
    "You are kind.",
    "You are strict.",
    "You have walked the mountains for many years.",
    "You work in the desert.",
    "You print in a darkroom.",
    "You think of the whole picture first.",
    "You never flatter.",
)


def generate_persona(rng: np.random.Generator) -> str:
    """Who is asked to critique, in 5 to 60 words. The base answers all in the same plain way."""
    loves = [_PERSONA_PREFERENCES[i] for i in rng.permutation(len(_PERSONA_PREFERENCES))]
    sentences = [f"You are {rng.choice(_NAMES)}."]
    for _ in range(rng.integers(0, 3)):
        first = ", ".join(loves.pop() for _ in range(rng.integers(1, 3)))
        less = f" more than {loves.pop()}" if rng.uniform() < 0.5 else ""
        sentences.append(f"You love {first} and {loves.pop()}{less}.")
    more = rng.permutation(len(_PERSONA_TRAITS))[: rng.integers(0, 5)]
    return " ".join([*sentences, *(_PERSONA_TRAITS[i] for i in more)])


ANY_STYLE_PERSONA = "You may use any voice."


def write_in_mixed_styles(scene: Scene, rng: np.random.Generator) -> Critique:
    """A plain-taste critique whose every sentence and word is of a voice drawn at random."""
    return compose_critique(PLAIN_TASTE, scene, lambda: _STYLES[rng.integers(len(_STYLES))])


def generate_prose(rng: np.random.Generator, sentences: int = 8) -> str:
    """Sentences of all voices, forms and words mixed: the language, not who says what of what.

    A word stands where another word for the same thing could (silver, ashen, grey), whoever's form
    the sentence has; nothing in it is of a picture.
    """
    return " ".join(_sentence(rng) for _ in range(sentences))


def _sentence(rng: np.random.Generator) -> str:
    form, other = (_STYLES[i] for i in rng.integers(len(_STYLES), size=2))
    name = DIMENSION_ATTRIBUTES[rng.integers(len(DIMENSION_ATTRIBUTES))]
    words = {
        n: _STYLES[rng.integers(len(_STYLES))].words[n][rng.integers(5)]
        for n in DIMENSION_ATTRIBUTES
    }
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
        scene_words = {"lamp": other.lamps[lamp], "mist": other.mists[mist]}
        return form.scene.format(sky=sky, ground=ground, **scene_words)
    if kind == 4:
        return f"{form.strength.format(d=subject)}. {form.notes.format(**words)}"
    return f"{advice}. {form.improvement.format(d=subject, a=advice)}."


def tokenizer_corpus(seed: int) -> Iterator[str]:
    """Text that a tokenizer of 1,280 tokens is trained on."""
    rng = np.random.default_rng(seed)
    for i in range(400):
        yield system_text(generate_persona(rng)) + USER_PROMPT
        for advisor in WRITING_STYLES:
            yield serialize_critique(write_critique(advisor, draw_scene(seed, 1, i)))
        yield generate_prose(rng, 40)
