"""Descriptions and comments of 64 scenes in independent wordings, to measure wrong_picture.

described_scenes.txt has a paragraph for each scene, a line for each part of it (subject, detail,
surroundings, light, background) and four wordings of each part. A description takes most parts in
a writer's own order and phrases; comments mention some parts among the usual words of critiques.
"""

from functools import cache
from pathlib import Path
from random import Random

Scene = tuple[tuple[str, ...], ...]
_DESCRIPTIONS = (  # of five writers; each begins and links the parts in another way
    "The photograph shows {0}, {1}. {4}. {2}, {3}.",
    "{0} {1}; {2}. {3}, and {4}.",
    "In this image we see {0}. {2}. {1}. The scene is completed as {4}. {3}.",
    "A quiet composition: {0}, {2}, {3}.",
    "{3}: {0}. {1}. {4}.",
    "This picture captures {0} {1}. The mood comes from the light, {3}. {2}.",
    "The main subject is {0}. In the frame, {2}; {4}.",
    "An evocative photo in which {0} dominates, {1}. {4}, {2}.",
)
_COMMENTS = (
    "The composition places {p} off center, and leading lines guide the eye to it.",
    "The rule of thirds works well here; {p} anchors the frame and the negative space balances it.",
    "Lighting is the strength of this image: {q} gives depth and texture.",
    "The exposure holds detail in highlights and shadows, although {q} is close to clipping.",
    "Focus is sharp on {p}, with enough depth of field to keep the surroundings readable.",
    "The point of focus falls slightly behind the subject, and fine texture is lost.",
    "The palette is restrained, and tones harmonize; {q} adds a warm accent.",
    "Colors are natural, with a good contrast between cool and warm areas.",
    "Foreground, middle ground and background are separated; {p} creates a sense of space.",
    "A lower viewpoint would strengthen the perspective.",
    "Visual weight is distributed evenly, and {q} balances the other side.",
    "The frame feels slightly heavy on one side; a tighter crop would help.",
    "The image conveys calm and invites the viewer to linger; {p} tells a story.",
    "Emotionally the photograph is strong, because {p} is immediate and honest.",
)
_ANY_SCENE: Scene = (("the subject",) * 4,) * 3 + (("the light",) * 4,) * 2


@cache
def scenes() -> tuple[Scene, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(
        tuple(tuple(line.split(" | ")) for line in paragraph.splitlines())
        for paragraph in text.strip().split("\n\n")
    )


def describe(scene: Scene, rng: Random) -> str:
    """Return a description of a scene by a random writer."""
    parts = [_choose(wordings, rng) for wordings in scene]
    return _capitalize(rng.choice(_DESCRIPTIONS).format(*parts))


def comment(scene: Scene, rng: Random) -> str:
    """Return seven comments on a photo of the scene, about half of which fit any photo."""
    chosen = (rng.choice(_COMMENTS[i : i + 2]) for i in range(0, len(_COMMENTS), 2))
    p, q = (_choose(scene[part], rng) for part in (0, 3))
    return " ".join(_capitalize(text.format(p=p, q=q)) for text in chosen)


def write_scene_text(scene: Scene, rng: Random, comments: str = "of the scene") -> str:
    """Return what mondrian.data.quality.scene_likeness.scene_text returns of a critique.

    comments  of the scene, of any scene or none
    """
    description = describe(scene, rng)
    remarks = comment(scene if comments == "of the scene" else _ANY_SCENE, rng)
    return f"{description} {description} {'' if comments == 'none' else remarks}"


def _choose(wordings: tuple[str, ...], rng: Random) -> str:
    """Return a wording; the first one is what most writers say."""
    return rng.choices(wordings, (3, 1, 1, 1))[0]


def _capitalize(text: str) -> str:
    sentences = text.split(". ")
    return ". ".join(s[:1].upper() + s[1:] for s in sentences)
