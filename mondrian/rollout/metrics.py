"""What is measured of each job, and what of it is an observation.

A client counts once in a comparison: with the mean of what it saw at a step. A client that is seen
on both sides of one step tells nothing, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.rollout.observations import Observation


@dataclass(frozen=True)
class Metric:
    """A number of a job; `value` is None where the job does not have it.

    kind    share (each value 0 or 1) or mean
    better  high or low
    is_rated   a person gave it, so it was observed when they did
    """

    name: str
    description: str
    kind: Literal["share", "mean"]
    better: Literal["high", "low"]
    value: Callable[[Observation], float | None]
    unit: str = ""
    is_rated: bool = False


def _to_float(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _is_finished(job: Observation) -> bool:
    return job.outcome in ("completed", "failed")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("compliance", "answers in form", "share", "high", lambda s: _to_float(s.compliant)),
        Metric(
            "failures",
            "failed, at first or for good",
            "share",
            "low",
            lambda s: (
                _to_float(s.outcome == "failed" or s.tried_again) if _is_finished(s) else None
            ),
        ),
        Metric(
            "fallbacks",
            "answered by the base in its place",
            "share",
            "low",
            lambda s: _to_float(s.fell_back) if s.outcome == "completed" else None,
        ),
        Metric(
            "approval",
            "thumbs up among rated",
            "share",
            "high",
            lambda s: None if s.thumbs is None else _to_float(s.thumbs > 0),
            is_rated=True,
        ),
        Metric(
            "thumbs_down",
            "thumbs down among rated",
            "share",
            "low",
            lambda s: None if s.thumbs is None else _to_float(s.thumbs < 0),
            is_rated=True,
        ),
        Metric(
            "acceptance",
            "taken as it was, among decided",
            "share",
            "high",
            lambda s: _to_float(s.accepted),
            is_rated=True,
        ),
        Metric(
            "correction",
            "how far a person moved scores",
            "mean",
            "low",
            lambda s: s.moved,
            "points",
            is_rated=True,
        ),
        Metric(
            "latency",
            "once begun, to the critique",
            "mean",
            "low",
            lambda s: s.seconds if s.outcome == "completed" else None,
            "s",
        ),
        Metric(
            "tokens",
            "length of an answer",
            "mean",
            "low",
            lambda s: None if s.tokens is None else float(s.tokens),
            "tokens",
        ),
    )
}


def slow_critiques_metric(limit: float) -> Metric:
    """Whether a critique took longer than a limit: p95 is within it where this is at most 0.05.

    Who left later than the limit saw a slow one; of who left sooner nothing is known.
    """

    def value(job: Observation) -> float | None:
        if job.seconds is None or (job.outcome == "gone" and job.seconds <= limit):
            return None
        return _to_float(job.seconds > limit)

    return Metric(
        "latency_p95_seconds", f"critiques slower than {limit:g} s", "share", "low", value
    )


def double_exposed_clients(jobs: Iterable[Observation]) -> set[tuple[int, str]]:
    """(step, subject) of clients that both arms answered within a step."""
    sides: dict[tuple[int, str], set[bool]] = {}
    for job in jobs:
        sides.setdefault((job.step, job.subject), set()).add(job.candidate)
    return {key for key, both in sides.items() if len(both) > 1}


@dataclass(frozen=True)
class MetricSamples:
    """Values of one metric, a client of a step each, in the order in which they were first seen.

    observed_at  seconds since 1970
    """

    values: FloatArray
    candidate: np.ndarray
    share: FloatArray
    observed_at: FloatArray


def collect_samples(jobs: Sequence[Observation], metric: Metric) -> MetricSamples:
    """What a comparison of the arms is made of: no shadows, nobody who saw both arms."""
    double = double_exposed_clients(job for job in jobs if not job.shadow)
    units: dict[tuple[int, str], list[tuple[float, Observation]]] = {}
    timed = sorted(jobs, key=lambda job: _observation_time(job, metric))
    for job in timed:
        value = metric.value(job)
        key = (job.step, job.subject)
        if value is not None and not job.shadow and key not in double:
            units.setdefault(key, []).append((value, job))
    firsts = [all[0][1] for all in units.values()]
    return MetricSamples(
        np.array([np.mean([value for value, _ in all]) for all in units.values()], float),
        np.array([job.candidate for job in firsts], bool),
        np.array([job.share for job in firsts], float),
        np.array([_observation_time(job, metric) for job in firsts], float),
    )


def arm_values(
    jobs: Sequence[Observation], metric: Metric, candidate: bool
) -> tuple[FloatArray, FloatArray]:
    """Values of an arm, a job each, and when they were seen; no shadows."""
    timed_values = [
        (_observation_time(job, metric), value)
        for job in jobs
        if job.candidate == candidate
        and not job.shadow
        and (value := metric.value(job)) is not None
    ]
    timed_values.sort(key=lambda pair: pair[0])
    values = np.array([value for _, value in timed_values], float)
    return values, np.array([when for when, _ in timed_values], float)


def paired_values(jobs: Sequence[Observation], metric: Metric) -> tuple[FloatArray, FloatArray]:
    """(candidate, control) values for one photograph each: of jobs and their shadows."""
    job_by_id = {job.id: job for job in jobs}
    value_pairs = []
    for job in jobs:
        other = job_by_id.get(job.pair_of) if job.shadow else None
        if other is None or other.candidate == job.candidate:
            continue
        a, b = (job, other) if job.candidate else (other, job)
        values = metric.value(a), metric.value(b)
        if None not in values:
            value_pairs.append(values)
    pair_array = np.array(value_pairs, float).reshape(-1, 2)
    return pair_array[:, 0], pair_array[:, 1]


def _observation_time(job: Observation, metric: Metric) -> float:
    return job.judged if metric.is_rated else job.ended
