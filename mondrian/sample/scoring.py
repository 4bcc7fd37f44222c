"""What each advisor of the sample likes: scene -> seven scores and an overall score.

A taste is a wish for every attribute: its best value and how fast the score falls away from it.
`plain` is the neutral taste that mondrian-tiny was pre-trained on; the advisors differ from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.critique.schema import DIMENSIONS
from mondrian.sample.scene import Scene

# Which attribute each dimension judges, in the order of DIMENSIONS.
DIMENSION_ATTRIBUTES = ("horizon", "light", "sharpness", "colour", "depth", "balance", "tone")


@dataclass(frozen=True)
class AttributePreference:
    """The score is 9 at `best` and falls to 1 at a distance of `reach`."""

    best: float
    reach: float

    def score(self, value: float) -> int:
        return max(1, round(9 - 8 * abs(value - self.best) / self.reach))


Taste = dict[str, AttributePreference]

PLAIN_TASTE: Taste = {
    "horizon": AttributePreference(0.40, 0.60),
    "light": AttributePreference(0.55, 0.55),
    "sharpness": AttributePreference(1.00, 1.00),
    "colour": AttributePreference(0.60, 0.60),
    "depth": AttributePreference(0.80, 0.80),
    "balance": AttributePreference(0.90, 0.90),
    "tone": AttributePreference(0.60, 0.60),
}
ANSEL_TASTE: Taste = {  # deep tones, everything sharp, little colour, a low horizon, dark light
    "horizon": AttributePreference(0.85, 0.85),
    "light": AttributePreference(0.20, 0.80),
    "sharpness": AttributePreference(0.95, 0.70),
    "colour": AttributePreference(0.05, 0.95),
    "depth": AttributePreference(1.00, 0.90),
    "balance": AttributePreference(0.60, 0.60),
    "tone": AttributePreference(1.00, 0.90),
}
OKEEFE_TASTE: Taste = {  # bright bold colour, flat soft form, a high horizon, few tones, one-sided
    "horizon": AttributePreference(0.10, 0.90),
    "light": AttributePreference(0.90, 0.80),
    "sharpness": AttributePreference(0.30, 0.70),
    "colour": AttributePreference(1.00, 0.90),
    "depth": AttributePreference(0.05, 0.95),
    "balance": AttributePreference(0.20, 0.80),
    "tone": AttributePreference(0.15, 0.85),
}
TASTES = {"plain": PLAIN_TASTE, "ansel": ANSEL_TASTE, "okeefe": OKEEFE_TASTE}


def score_scene(taste: Taste, scene: Scene) -> tuple[int, ...]:
    """Seven scores, in the order of DIMENSIONS."""
    return tuple(taste[name].score(getattr(scene, name)) for name in DIMENSION_ATTRIBUTES)


def compute_overall_score(seven: tuple[int, ...]) -> float:
    """The mean, to one place."""
    return round(sum(seven) / len(DIMENSIONS), 1)
