"""Tastes of the sample's advisors: scene -> seven scores and an overall score.

A taste is a preference for each attribute. `plain` is the neutral taste that mondrian-tiny was
pre-trained on; the advisors differ from it.
"""

from dataclasses import dataclass

from mondrian.critique.schema import DIMENSIONS
from mondrian.sample.scene import Scene

# The attribute that each dimension scores, in the order of DIMENSIONS.
DIMENSION_ATTRIBUTES = ("horizon", "light", "sharpness", "color", "depth", "balance", "tone")


@dataclass(frozen=True)
class AttributePreference:
    """The score is 9 at `best` and falls to 1 at a distance of `reach`."""

    best: float
    reach: float

    def score(self, value: float) -> int:
        return max(1, round(9 - 8 * abs(value - self.best) / self.reach))


Taste = dict[str, AttributePreference]


def _taste(*preferences: tuple[float, float]) -> Taste:
    """Return a taste from (best, reach) in the order of DIMENSION_ATTRIBUTES."""
    pairs = zip(DIMENSION_ATTRIBUTES, preferences, strict=True)
    return {name: AttributePreference(*preference) for name, preference in pairs}


PLAIN_TASTE = _taste(
    (0.40, 0.60), (0.55, 0.55), (1.00, 1.00), (0.60, 0.60), (0.80, 0.80), (0.90, 0.90), (0.60, 0.60)
)
# deep tones, everything sharp, little color, a low horizon, dark light
ANSEL_TASTE = _taste(
    (0.85, 0.85), (0.20, 0.80), (0.95, 0.70), (0.05, 0.95), (1.00, 0.90), (0.60, 0.60), (1.00, 0.90)
)
# bright bold color, flat soft form, a high horizon, few tones, one-sided
OKEEFE_TASTE = _taste(
    (0.10, 0.90), (0.90, 0.80), (0.30, 0.70), (1.00, 0.90), (0.05, 0.95), (0.20, 0.80), (0.15, 0.85)
)
TASTES = {"plain": PLAIN_TASTE, "ansel": ANSEL_TASTE, "okeefe": OKEEFE_TASTE}


def score_scene(taste: Taste, scene: Scene) -> tuple[int, ...]:
    """Return seven scores in the order of DIMENSIONS."""
    return tuple(taste[name].score(getattr(scene, name)) for name in DIMENSION_ATTRIBUTES)


def compute_overall_score(scores: tuple[int, ...]) -> float:
    return round(sum(scores) / len(DIMENSIONS), 1)
