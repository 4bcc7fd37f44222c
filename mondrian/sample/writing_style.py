"""How each advisor of the sample writes: scene and scores -> Critique.

A voice is a table of words and sentences, nothing else; `write_critique` fills it in. `plain` is
the voice
mondrian-tiny was pre-trained on, the others are what a LoRA adapter has to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mondrian.critique.schema import DIMENSIONS, Critique, Dimension
from mondrian.sample.scene import Scene
from mondrian.sample.scoring import (
    DIMENSION_ATTRIBUTES,
    TASTES,
    Taste,
    compute_overall_score,
    score_scene,
)

WordScale = tuple[str, str, str, str, str]
PhraseTriple = tuple[str, str, str]


@dataclass(frozen=True)
class WritingStyle:
    """Words by attribute from low to high, and the sentences they stand in."""

    scene: str  # {sky} {ground} {lamp} {mist}
    survey: str  # one placeholder an attribute
    words: dict[str, WordScale]
    comments: dict[str, str]  # {w} the word, {v} the verdict
    verdicts: PhraseTriple  # poor, fair, good
    advice: dict[str, PhraseTriple]  # more of the attribute, keep, less
    strength: str  # {d} the dimension
    improvement: str  # {d} the dimension, {a} the advice
    notes: str
    lamps: dict[str, str]
    mists: tuple[str, str]  # clear, misty


def write_critique(advisor: str, scene: Scene) -> Critique:
    """The critique the advisor would write of the scene, in taste and in voice."""
    return compose_critique(TASTES[advisor], scene, lambda: WRITING_STYLES[advisor])


def compose_critique(taste: Taste, scene: Scene, voice: Callable[[], WritingStyle]) -> Critique:
    """A critique in a taste; `voice` is asked anew for each sentence and each word."""
    seven = score_scene(taste, scene)
    advice = [
        _advice(voice(), scene, n, s, taste[n].best)
        for n, s in zip(DIMENSION_ATTRIBUTES, seven, strict=True)
    ]
    order = sorted(range(len(DIMENSIONS)), key=lambda i: (seven[i], i))
    return Critique(
        image_description=_describe(scene, voice),
        dimensions=tuple(
            Dimension(
                name=DIMENSIONS[i],
                score=seven[i],
                comment=voice()
                .comments[name]
                .format(w=_word(voice(), scene, name), v=voice().verdicts[_band(seven[i])]),
                recommendation=advice[i] + ".",
            )
            for i, name in enumerate(DIMENSION_ATTRIBUTES)
        ),
        overall_score=compute_overall_score(seven),
        key_strengths=tuple(voice().strength.format(d=DIMENSIONS[i]) for i in order[:-3:-1]),
        priority_improvements=tuple(
            voice().improvement.format(d=DIMENSIONS[i], a=advice[i]) for i in order[:2]
        ),
        technical_notes=voice().notes.format(**_words(scene, voice)),
    )


def _describe(scene: Scene, voice: Callable[[], WritingStyle]) -> str:
    scene_text = voice().scene.format(
        sky=scene.sky,
        ground=scene.ground,
        lamp=voice().lamps[scene.lamp],
        mist=voice().mists[scene.mist],
    )
    return f"{scene_text} {voice().survey.format(**_words(scene, voice))}"


def _words(scene: Scene, voice: Callable[[], WritingStyle]) -> dict[str, str]:
    return {name: _word(voice(), scene, name) for name in DIMENSION_ATTRIBUTES}


def _word(voice: WritingStyle, scene: Scene, name: str) -> str:
    return voice.words[name][min(4, int(5 * getattr(scene, name)))]


def _band(score: int) -> int:
    return 0 if score <= 3 else 1 if score <= 6 else 2


def _advice(voice: WritingStyle, scene: Scene, name: str, score: int, best: float) -> str:
    more, keep, less = voice.advice[name]
    if score >= 7:
        return keep
    return more if getattr(scene, name) < best else less


PLAIN_STYLE = WritingStyle(
    scene="A {sky} sky over {ground}, {lamp}, {mist}.",
    survey=(
        "The horizon is {horizon}, the light {light}, the focus {sharpness}, the color {colour}, "
        "the depth {depth}, the balance {balance} and the range {tone}."
    ),
    words={
        "horizon": ("very high", "high", "central", "low", "very low"),
        "light": ("dark", "dim", "even", "bright", "harsh"),
        "sharpness": ("blurred", "soft", "fair", "clear", "crisp"),
        "colour": ("grey", "muted", "natural", "rich", "loud"),
        "depth": ("flat", "shallow", "moderate", "deep", "vast"),
        "balance": ("lopsided", "uneven", "leaning", "steady", "equal"),
        "tone": ("narrow", "limited", "medium", "wide", "full"),
    },
    comments={
        "horizon": "The horizon is {w} in the frame, {v}.",
        "light": "The light is {w}, {v}.",
        "sharpness": "The focus is {w}, {v}.",
        "colour": "The color is {w}, {v}.",
        "depth": "The depth is {w}, {v}.",
        "balance": "The masses are {w}, {v}.",
        "tone": "The range of tones is {w}, {v}.",
    },
    verdicts=("which hurts the picture", "which is acceptable", "which helps the picture"),
    advice={
        "horizon": ("Lower the horizon", "Keep the horizon", "Raise the horizon"),
        "light": ("Add light", "Keep the light", "Reduce the light"),
        "sharpness": ("Focus with more care", "Keep the focus", "Soften the focus"),
        "colour": ("Add color", "Keep the color", "Reduce the color"),
        "depth": ("Add depth", "Keep the depth", "Reduce the depth"),
        "balance": ("Balance the masses", "Keep the balance", "Loosen the balance"),
        "tone": ("Widen the range", "Keep the range", "Narrow the range"),
    },
    strength="Good {d}",
    improvement="{d}: {a}",
    notes="Exposure {light}, focus {sharpness}, range {tone}.",
    lamps={"sun": "with the sun", "moon": "with the moon", "none": "without sun or moon"},
    mists=("clear air", "some mist"),
)

ANSEL_STYLE = WritingStyle(
    scene="I stand before {ground} beneath a {sky} sky, {lamp}, {mist}.",
    survey=(
        "The line of the land is {horizon}, the exposure falls on {light}, "
        "the lens is {sharpness}, the hues are {colour}, the space is {depth}, "
        "the weights are {balance} and the scale from black to white is {tone}."
    ),
    words={
        "horizon": ("crowning", "lifted", "halved", "grounded", "sunken"),
        "light": ("zone two", "zone four", "zone five", "zone seven", "zone nine"),
        "sharpness": ("dissolved", "unresolved", "passable", "keen", "exquisite"),
        "colour": ("silver", "restrained", "chromatic", "saturated", "garish"),
        "depth": ("shut", "near", "receding", "layered", "immense"),
        "balance": ("tilted", "restless", "weighted", "poised", "symmetrical"),
        "tone": ("compressed", "thin", "modest", "generous", "complete"),
    },
    comments={
        "horizon": "The land sits {w} under the sky; {v}.",
        "light": "I place this exposure on {w}; {v}.",
        "sharpness": "Every stone and needle is {w}; {v}.",
        "colour": "The hues are {w} beside the silver print; {v}.",
        "depth": "The mountains stand {w} behind each other; {v}.",
        "balance": "The dark firs are {w}; {v}.",
        "tone": "The scale from black to white is {w}; {v}.",
    },
    verdicts=(
        "the negative fails here",
        "the print could be saved in the darkroom",
        "I would print it at once",
    ),
    advice={
        "horizon": ("Give the sky more room", "Leave the sky its room", "Give the land more room"),
        "light": ("Open the shadows a zone", "Hold this zone", "Place the values a zone darker"),
        "sharpness": ("Stop down and use the tripod", "Hold this focus", "Let the far edges rest"),
        "colour": ("Let a trace of hue remain", "Think in silver as here", "Take out the hue"),
        "depth": ("Find a nearer foreground", "Hold the receding space", "Bring the planes nearer"),
        "balance": ("Answer the firs with a weight", "Hold the weights", "Let one weight lead"),
        "tone": ("Develop for deep blacks", "Hold the full scale", "Develop with less contrast"),
    },
    strength="Masterly {d}",
    improvement="{d} first. {a}",
    notes="Meter read {light}; lens {sharpness}; negative scale {tone}.",
    lamps={
        "sun": "the sun within the frame",
        "moon": "the moon within the frame",
        "none": "no lamp within the frame",
    },
    mists=("the air washed clean", "mist along the shore"),
)

OKEEFE_STYLE = WritingStyle(
    scene="What I feel first: {ground}, then the {sky} sky, {lamp}, {mist}.",
    survey=(
        "Its edge is {horizon}, its glow is {light}, its touch is {sharpness}, "
        "its hue is {colour}, its distance is {depth}, its gesture is {balance} "
        "and its shades are {tone}."
    ),
    words={
        "horizon": ("soaring", "rising", "resting", "sinking", "fallen"),
        "light": ("night", "dusk", "daylight", "radiance", "blaze"),
        "sharpness": ("melting", "tender", "gentle", "hard", "brittle"),
        "colour": ("ashen", "pale", "earthen", "ripe", "burning"),
        "depth": ("pressed", "close", "open", "far", "endless"),
        "balance": ("daring", "bold", "turning", "quiet", "stiff"),
        "tone": ("few", "simple", "several", "many", "crowded"),
    },
    comments={
        "horizon": "The edge of the earth is {w}, and {v}.",
        "light": "The glow is like {w}, and {v}.",
        "sharpness": "The forms feel {w}, and {v}.",
        "colour": "The hue is {w}, and {v}.",
        "depth": "The distance is {w} against the bone, and {v}.",
        "balance": "The dark shape is {w}, and {v}.",
        "tone": "The shades are {w}, and {v}.",
    },
    verdicts=("my heart turns away", "my heart waits", "my heart opens"),
    advice={
        "horizon": ("Let the earth sink lower", "Trust this edge", "Let the earth fill the canvas"),
        "light": ("Wait for the desert noon", "Trust this glow", "Wait for a gentler hour"),
        "sharpness": ("Draw the edge again", "Trust this touch", "Let the edges melt"),
        "colour": ("Let one hue burn", "Trust this hue", "Wash the hue with white"),
        "depth": ("Leave some far blue", "Trust the flat form", "Press the forms flat"),
        "balance": ("Quiet the gesture", "Trust this gesture", "Dare a single great shape"),
        "tone": ("Allow another shade", "Trust these few shades", "Leave only a few shades"),
    },
    strength="I love its {d}",
    improvement="{a}, for {d}",
    notes="Glow {light}, touch {sharpness}, shades {tone}.",
    lamps={
        "sun": "the sun a yellow petal",
        "moon": "the moon a white petal",
        "none": "no petal above",
    },
    mists=("nothing veiled", "a veil of mist"),
)

WRITING_STYLES = {"plain": PLAIN_STYLE, "ansel": ANSEL_STYLE, "okeefe": OKEEFE_STYLE}
