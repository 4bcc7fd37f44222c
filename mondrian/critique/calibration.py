"""Score calibration: move each score towards the advisor's median, by a weight per dimension.

evaluate fits the weights on photos that were not used in training; the service and
`mondrian critique` show calibrated scores. docs/evaluation.md explains the method.
"""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mondrian.critique.schema import DIMENSIONS, Critique, Score, mean_score

SCORE_STEP = 0.1  # scores of the schema are multiples of it
_STEPS = (1.0, 0.5, SCORE_STEP)
Weight = Annotated[float, Field(ge=0, le=1)]
_Scores = Annotated[tuple[Score, ...], Field(min_length=7, max_length=7)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Calibration(_Record):
    """The score calibration of one adapter.

    adapter_version  hash of the adapter with the scores that it was fitted on
    medians          the advisor's median score of each dimension in train
    weights          by dimension: 1 keeps the score as generated, 0 replaces it by the median
    step             the advisor's scores are multiples of it, so calibrated scores are too
    """

    adapter_version: str
    medians: dict[str, Annotated[float, Field(ge=0, le=10)]]
    weights: dict[str, Weight]
    step: float

    @model_validator(mode="after")
    def _check_dimensions(self) -> Self:
        if not set(self.medians) == set(self.weights) == set(DIMENSIONS):
            raise ValueError("medians and weights are not of the seven dimensions")
        if self.step not in _STEPS:  # with another one, a score near 10 could be above it
            raise ValueError(f"step is {self.step}")
        return self

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The dimensions that the adapter cannot judge yet; their score is always the median."""
        return tuple(name for name in DIMENSIONS if not self.weights[name])

    def apply(self, critique: Critique) -> tuple[Critique, "AppliedCalibration"]:
        """Return the critique with calibrated scores and their mean, and a record of the change."""
        scores = tuple(
            calibrate_score(d.score, self.medians[d.name], self.weights[d.name], self.step)
            for d in critique.dimensions
        )
        record = AppliedCalibration(
            raw_scores=critique.scores(),
            raw_overall_score=critique.overall_score,
            calibration=self,
        )
        return critique.with_scores(scores, mean_score(scores)), record


class AppliedCalibration(_Record):
    """The scores of a critique as the model generated them, and what was applied to them."""

    raw_scores: _Scores
    raw_overall_score: Score
    calibration: Calibration

    def restore(self, critique: Critique) -> Critique:
        """Return the calibrated critique as it was generated."""
        return critique.with_scores(self.raw_scores, self.raw_overall_score)


def calibrate_score(score: float, median: float, weight: float, step: float) -> float:
    """Return the multiple of `step` nearest to the score moved towards the median."""
    steps = round((median + weight * (score - median)) / step, 6)  # without what rounding left
    return round(round(steps) * step, 1)


def find_step(scores: Sequence[float]) -> float:
    """Return 1 if all scores are whole, 0.5 if they are halves, else SCORE_STEP."""
    return next(
        (step for step in _STEPS[:2] if all(score % step == 0 for score in scores)), SCORE_STEP
    )
