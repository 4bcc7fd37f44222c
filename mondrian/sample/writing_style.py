"""Writing styles of the sample's advisors: scene and scores -> Critique.

A style is a table of words and sentences (writing_styles.yaml) that `write_critique` fills in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from mondrian.critique.schema import DIMENSIONS, Critique, Dimension
from mondrian.sample.scene import Scene
from mondrian.sample.scoring import (
    DIMENSION_ATTRIBUTES,
    TASTES,
    Taste,
    compute_overall_score,
    score_scene,
)


@dataclass(frozen=True)
class WritingStyle:
    """The keys of a style, explained in writing_styles.yaml."""

    scene: str
    survey: str
    words: dict[str, list[str]]
    comments: dict[str, str]
    verdicts: list[str]
    advice: dict[str, list[str]]
    strength: str
    improvement: str
    notes: str
    lamps: dict[str, str]
    mists: list[str]


_STYLE_FILE = Path(__file__).with_name("writing_styles.yaml")
WRITING_STYLES = {
    advisor: WritingStyle(**style)
    for advisor, style in yaml.safe_load(_STYLE_FILE.read_text(encoding="utf-8")).items()
}


def write_critique(advisor: str, scene: Scene) -> Critique:
    """Return the advisor's critique of a scene, in the advisor's taste and style."""
    return compose_critique(TASTES[advisor], scene, lambda: WRITING_STYLES[advisor])


def compose_critique(taste: Taste, scene: Scene, style: Callable[[], WritingStyle]) -> Critique:
    """Return a critique in a taste; `style` is called for each sentence and each word."""
    scores = score_scene(taste, scene)
    advice = [
        _choose_advice(style(), scene, name, score, taste[name].best)
        for name, score in zip(DIMENSION_ATTRIBUTES, scores, strict=True)
    ]
    order = sorted(range(len(DIMENSIONS)), key=lambda i: (scores[i], i))
    return Critique(
        image_description=_describe_scene(scene, style),
        dimensions=tuple(
            Dimension(
                name=DIMENSIONS[i],
                score=scores[i],
                comment=_write_comment(scene, style, name, scores[i]),
                recommendation=advice[i] + ".",
            )
            for i, name in enumerate(DIMENSION_ATTRIBUTES)
        ),
        overall_score=compute_overall_score(scores),
        key_strengths=tuple(style().strength.format(d=DIMENSIONS[i]) for i in order[:-3:-1]),
        priority_improvements=tuple(
            style().improvement.format(d=DIMENSIONS[i], a=advice[i]) for i in order[:2]
        ),
        technical_notes=style().notes.format(**_choose_words(scene, style)),
    )


def _choose_advice(style: WritingStyle, scene: Scene, name: str, score: int, best: float) -> str:
    increase, leave, decrease = style.advice[name]
    if score >= 7:
        return leave
    return increase if getattr(scene, name) < best else decrease


def _describe_scene(scene: Scene, style: Callable[[], WritingStyle]) -> str:
    sentence = style().scene.format(
        sky=scene.sky,
        ground=scene.ground,
        lamp=style().lamps[scene.lamp],
        mist=style().mists[scene.mist],
    )
    return f"{sentence} {style().survey.format(**_choose_words(scene, style))}"


def _write_comment(scene: Scene, style: Callable[[], WritingStyle], name: str, score: int) -> str:
    band = 0 if score <= 3 else 1 if score <= 6 else 2
    comment = style().comments[name]
    return comment.format(w=_choose_word(style(), scene, name), v=style().verdicts[band])


def _choose_words(scene: Scene, style: Callable[[], WritingStyle]) -> dict[str, str]:
    return {name: _choose_word(style(), scene, name) for name in DIMENSION_ATTRIBUTES}


def _choose_word(style: WritingStyle, scene: Scene, name: str) -> str:
    return style.words[name][min(4, int(5 * getattr(scene, name)))]
