"""Jobs and a metric -> running estimates of each arm and of the difference, with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.core.fields import Floats
from mondrian.rollout.confidence_sequences import (
    LEVEL,
    Band,
    difference_band,
    mean_band,
    share_band,
)
from mondrian.rollout.metrics import Metric, observations, of_arm
from mondrian.rollout.observations import Seen


@dataclass(frozen=True)
class Run:
    """A band and the time of each of its looks, in seconds since 1970."""

    when: Floats
    band: Band


def arm(seen: Sequence[Seen], metric: Metric, candidate: bool) -> Run:
    """An arm by itself, a job each."""
    values, when = of_arm(seen, metric, candidate)
    return Run(when, share_band(values > 0) if metric.kind == "share" else mean_band(values))


def difference(
    seen: Sequence[Seen], metric: Metric, sign: float = 1.0, level: float = LEVEL
) -> Run:
    """Candidate less control, a client of a step each; who was not dealt by lot is left out.

    sign  -1 where below 0 would be good and it should be above
    """
    found = observations(seen, metric)
    dealt = (found.share > 0) & (found.share < 1)
    span = 1.0 if metric.kind == "share" else 0.0
    band = difference_band(
        sign * found.values[dealt],
        found.candidate[dealt],
        found.share[dealt],
        level=level,
        span=span,
    )
    return Run(found.when[dealt], band)
