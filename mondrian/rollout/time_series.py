"""Jobs -> every metric by arm: how it is now, and how it came to be, as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from mondrian.rollout.confidence_sequences import Interval
from mondrian.rollout.estimates import Run, arm, difference
from mondrian.rollout.metrics import METRICS, Metric
from mondrian.rollout.observations import Seen

ARMS = ("candidate", "control", "difference")
POINTS = 100  # of a series at most; the last one is always there
Point = list[float | None]  # seconds since 1970, count, mean, low, high


def metrics(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Every metric: `now` and `series` for each of ARMS."""
    return [_metric(seen, metric) for metric in METRICS.values()]


def _metric(seen: Sequence[Seen], metric: Metric) -> dict[str, Any]:
    runs = (arm(seen, metric, True), arm(seen, metric, False), difference(seen, metric))
    told = {"name": metric.name, "told": metric.told, "kind": metric.kind,
            "better": metric.better, "unit": metric.unit}  # fmt: skip
    arms = {
        name: {"now": interval(run.band.last), "series": series(run)}
        for name, run in zip(ARMS, runs, strict=True)
    }
    return told | arms


def interval(found: Interval) -> dict[str, Any]:
    """An interval as JSON; an end that is unknown is null."""
    ends = (found.mean, found.low, found.high)
    mean, low, high = map(known, ends)
    return {"mean": mean, "low": low, "high": high, "count": found.count}


def series(run: Run, most: int = POINTS) -> list[Point]:
    """A run thinned evenly to `most` looks."""
    looks = len(run.when)
    chosen = np.unique(np.linspace(0, looks - 1, min(looks, most)).round().astype(int))
    columns = (run.band.mean, run.band.low, run.band.high)
    return [
        [round(float(run.when[i]), 3), int(i) + 1, *(known(float(one[i])) for one in columns)]
        for i in chosen if isfinite(run.when[i])
    ]  # fmt: skip


def known(value: float) -> float | None:
    """Six digits of a number; None of what is none."""
    return float(f"{value:.6g}") if isfinite(value) else None
