"""Jobs -> every metric by arm: how it is now, and how it came to be, as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from mondrian.rollout.confidence_sequences import Interval
from mondrian.rollout.estimates import TimedBand, estimate_arm, estimate_difference
from mondrian.rollout.metrics import METRICS, Metric
from mondrian.rollout.observations import Observation

ARMS = ("candidate", "control", "difference")
MAX_POINTS = 100  # of a series at most; the last one is always there
Point = list[float | None]  # seconds since 1970, count, mean, low, high


def build_metric_series(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Every metric: `now` and `thin_series` for each of ARMS."""
    return [_metric(observations, metric) for metric in METRICS.values()]


def _metric(observations: Sequence[Observation], metric: Metric) -> dict[str, Any]:
    runs = (
        estimate_arm(observations, metric, True),
        estimate_arm(observations, metric, False),
        estimate_difference(observations, metric),
    )
    metadata = {
        "name": metric.name,
        "told": metric.description,
        "kind": metric.kind,
        "better": metric.better,
        "unit": metric.unit,
    }
    arms = {
        name: {"now": interval_to_json(run.band.last), "series": thin_series(run)}
        for name, run in zip(ARMS, runs, strict=True)
    }
    return metadata | arms


def interval_to_json(estimate: Interval) -> dict[str, Any]:
    """An interval as JSON; an end that is unknown is null."""
    ends = (estimate.mean, estimate.low, estimate.high)
    mean, low, high = map(round_or_none, ends)
    return {"mean": mean, "low": low, "high": high, "count": estimate.count}


def thin_series(run: TimedBand, max_points: int = MAX_POINTS) -> list[Point]:
    """A run thinned evenly to `max_points` looks."""
    looks = len(run.times)
    chosen = np.unique(np.linspace(0, looks - 1, min(looks, max_points)).round().astype(int))
    columns = (run.band.mean, run.band.low, run.band.high)
    return [
        [
            round(float(run.times[i]), 3),
            int(i) + 1,
            *(round_or_none(float(column[i])) for column in columns),
        ]
        for i in chosen
        if isfinite(run.times[i])
    ]


def round_or_none(value: float) -> float | None:
    """Six digits of a number; None of what is none."""
    return float(f"{value:.6g}") if isfinite(value) else None
