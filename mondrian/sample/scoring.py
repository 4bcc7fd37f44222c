"""What each advisor of the sample likes: scene -> seven scores and an overall score.

A taste is a wish for every attribute: its best value and how fast the score falls away from it.
`plain` is the neutral taste that mondrian-tiny was pre-trained on; the advisors differ from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.critique.schema import DIMENSIONS
from mondrian.sample.scene import Scene

# Which attribute each dimension judges, in the order of DIMENSIONS.
JUDGED = ("horizon", "light", "sharpness", "colour", "depth", "balance", "tone")


@dataclass(frozen=True)
class Wish:
    """The score is 9 at `best` and falls to 1 at a distance of `reach`."""

    best: float
    reach: float

    def score(self, value: float) -> int:
        return max(1, round(9 - 8 * abs(value - self.best) / self.reach))


Taste = dict[str, Wish]

PLAIN: Taste = {
    "horizon": Wish(0.40, 0.60),
    "light": Wish(0.55, 0.55),
    "sharpness": Wish(1.00, 1.00),
    "colour": Wish(0.60, 0.60),
    "depth": Wish(0.80, 0.80),
    "balance": Wish(0.90, 0.90),
    "tone": Wish(0.60, 0.60),
}
ANSEL: Taste = {  # deep tones, everything sharp, little colour, a low horizon, dark light
    "horizon": Wish(0.85, 0.85),
    "light": Wish(0.20, 0.80),
    "sharpness": Wish(0.95, 0.70),
    "colour": Wish(0.05, 0.95),
    "depth": Wish(1.00, 0.90),
    "balance": Wish(0.60, 0.60),
    "tone": Wish(1.00, 0.90),
}
OKEEFE: Taste = {  # bright bold colour, flat soft form, a high horizon, few tones, one-sided
    "horizon": Wish(0.10, 0.90),
    "light": Wish(0.90, 0.80),
    "sharpness": Wish(0.30, 0.70),
    "colour": Wish(1.00, 0.90),
    "depth": Wish(0.05, 0.95),
    "balance": Wish(0.20, 0.80),
    "tone": Wish(0.15, 0.85),
}
TASTES = {"plain": PLAIN, "ansel": ANSEL, "okeefe": OKEEFE}


def scores(taste: Taste, scene: Scene) -> tuple[int, ...]:
    """Seven scores, in the order of DIMENSIONS."""
    return tuple(taste[name].score(getattr(scene, name)) for name in JUDGED)


def overall(seven: tuple[int, ...]) -> float:
    """The mean, to one place."""
    return round(sum(seven) / len(DIMENSIONS), 1)
