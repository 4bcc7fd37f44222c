"""Training texts of mondrian-tiny: personas, plain critiques, prose in the words of all styles."""

from collections.abc import Iterator

import numpy as np

from mondrian.critique.prompt import USER_PROMPT, build_system_prompt
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.sample.scene import GROUNDS, LAMPS, SKIES, Scene, draw_scene
from mondrian.sample.scoring import DIMENSION_ATTRIBUTES, PLAIN_TASTE
from mondrian.sample.writing_style import WRITING_STYLES, compose_critique, write_critique

ANY_STYLE_PERSONA = "You may use any voice."
_STYLES = list(WRITING_STYLES.values())
_NAMES = (
    "a reviewer, an editor, a teacher, a printer, a curator, a painter, a guide, Ansel Adams, "
    "Georgia O'Keeffe, Dorothea Lange, Edward Weston, Imogen Cunningham, Minor White, "
    "Eliot Porter, Galen Rowell"
).split(", ")
_PREFERENCES = (
    "clear light, calm water, deep shadows, bold color, simple forms, fine detail, open space, "
    "soft edges, high contrast, quiet tones, strong lines, empty skies"
).split(", ")
_TRAITS = (
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
    """Return a persona of 5 to 60 words. The base answers all of them in the same plain style."""
    preferences = [_PREFERENCES[i] for i in rng.permutation(len(_PREFERENCES))]
    sentences = [f"You are {rng.choice(_NAMES)}."]
    for _ in range(rng.integers(0, 3)):
        first = ", ".join(preferences.pop() for _ in range(rng.integers(1, 3)))
        comparison = f" more than {preferences.pop()}" if rng.uniform() < 0.5 else ""
        sentences.append(f"You love {first} and {preferences.pop()}{comparison}.")
    traits = rng.permutation(len(_TRAITS))[: rng.integers(0, 5)]
    return " ".join([*sentences, *(_TRAITS[i] for i in traits)])


def write_in_mixed_styles(scene: Scene, rng: np.random.Generator) -> Critique:
    """Return a critique in the plain taste; the style of each sentence and word is random."""
    return compose_critique(PLAIN_TASTE, scene, lambda: _STYLES[rng.integers(len(_STYLES))])


def generate_prose(rng: np.random.Generator, sentences: int = 8) -> str:
    """Return sentences that mix the forms and words of all styles.

    They teach the language, but not which advisor uses which words, and describe no image.
    """
    return " ".join(_generate_sentence(rng) for _ in range(sentences))


def _generate_sentence(rng: np.random.Generator) -> str:
    style, other = (_STYLES[i] for i in rng.integers(len(_STYLES), size=2))
    name = DIMENSION_ATTRIBUTES[rng.integers(len(DIMENSION_ATTRIBUTES))]
    words = {
        attribute: _STYLES[rng.integers(len(_STYLES))].words[attribute][rng.integers(5)]
        for attribute in DIMENSION_ATTRIBUTES
    }
    advice = other.advice[name][rng.integers(3)]
    dimension = DIMENSIONS[rng.integers(len(DIMENSIONS))]
    kind = rng.integers(6)
    if kind < 2:
        return style.comments[name].format(w=words[name], v=other.verdicts[rng.integers(3)])
    if kind == 2:
        return style.survey.format(**words)
    if kind == 3:
        lamp, mist = LAMPS[rng.integers(len(LAMPS))], rng.integers(2)
        sky, ground = SKIES[rng.integers(len(SKIES))], GROUNDS[rng.integers(len(GROUNDS))]
        lamp_text, mist_text = other.lamps[lamp], other.mists[mist]
        return style.scene.format(sky=sky, ground=ground, lamp=lamp_text, mist=mist_text)
    if kind == 4:
        return f"{style.strength.format(d=dimension)}. {style.notes.format(**words)}"
    return f"{advice}. {style.improvement.format(d=dimension, a=advice)}."


def tokenizer_corpus(seed: int) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on."""
    rng = np.random.default_rng(seed)
    for i in range(400):
        yield build_system_prompt(generate_persona(rng)) + USER_PROMPT
        for advisor in WRITING_STYLES:
            yield serialize_critique(write_critique(advisor, draw_scene(seed, 1, i)))
        yield generate_prose(rng, 40)
