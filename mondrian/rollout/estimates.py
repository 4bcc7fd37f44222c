"""Jobs and a metric -> running estimates of each arm and of the difference, with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    Band,
    difference_band,
    mean_band,
    share_band,
)
from mondrian.rollout.metrics import Metric, arm_values, collect_samples
from mondrian.rollout.observations import Observation


@dataclass(frozen=True)
class TimedBand:
    """A band and the time of each of its looks, in seconds since 1970."""

    times: FloatArray
    band: Band


def estimate_arm(jobs: Sequence[Observation], metric: Metric, candidate: bool) -> TimedBand:
    """An arm by itself, a job each."""
    values, when = arm_values(jobs, metric, candidate)
    return TimedBand(when, share_band(values > 0) if metric.kind == "share" else mean_band(values))


def estimate_difference(
    jobs: Sequence[Observation], metric: Metric, sign: float = 1.0, level: float = CONFIDENCE_LEVEL
) -> TimedBand:
    """Candidate less control, a client of a step each; who was not dealt by lot is left out.

    sign  -1 where below 0 would be good and it should be above
    """
    samples = collect_samples(jobs, metric)
    assigned = (samples.share > 0) & (samples.share < 1)
    span = 1.0 if metric.kind == "share" else 0.0
    band = difference_band(
        sign * samples.values[assigned],
        samples.candidate[assigned],
        samples.share[assigned],
        level=level,
        span=span,
    )
    return TimedBand(samples.observed_at[assigned], band)
