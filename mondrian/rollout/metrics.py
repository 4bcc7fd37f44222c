"""Metrics of rollout jobs, and their running estimates for each arm and for the difference.

A client counts once in a comparison: with its mean over a step. A client that both arms answered
within a step compares nothing and is left out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    Band,
    difference_band,
    mean_band,
    share_band,
)
from mondrian.rollout.observations import Observation


@dataclass(frozen=True)
class Metric:
    """A number of a job; `value` returns None if the job does not have it.

    kind      share (each value is 0 or 1) or mean
    is_rated  given by a person, so it was observed when they rated
    """

    name: str
    description: str
    kind: Literal["share", "mean"]
    better: Literal["high", "low"]
    value: Callable[[Observation], float | None]
    unit: str = ""
    is_rated: bool = False


def _failed(obs: Observation) -> bool | None:
    if obs.outcome not in ("completed", "failed"):
        return None
    return obs.outcome == "failed" or obs.was_retried


def _is_rated(obs: Observation) -> bool | None:
    return obs.has_rating if obs.outcome == "completed" else None


def _used_fallback(obs: Observation) -> bool | None:
    return obs.used_fallback if obs.outcome == "completed" else None


def _latency(obs: Observation) -> float | None:
    return obs.latency if obs.outcome == "completed" else None


_accepted, _change = attrgetter("accepted"), attrgetter("score_change")


def _has_thumbs(sign: int) -> Callable[[Observation], bool | None]:
    return lambda obs: None if obs.thumbs is None else sign * obs.thumbs > 0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("compliance", "schema-valid answers", "share", "high", attrgetter("compliant")),
        Metric("failures", "failed, or needed a retry", "share", "low", _failed),
        Metric("fallbacks", "answered by the base instead", "share", "low", _used_fallback),
        Metric("rated", "rated by a person", "share", "high", _is_rated),
        Metric("approval", "thumbs up among rated", "share", "high", _has_thumbs(1), is_rated=True),
        Metric(
            "thumbs_down", "thumbs down among rated", "share", "low", _has_thumbs(-1), is_rated=True
        ),
        Metric("acceptance", "accepted among reviewed", "share", "high", _accepted, is_rated=True),
        Metric(
            "correction", "score change in reviews", "mean", "low", _change, "points", is_rated=True
        ),
        Metric("latency", "time from start to critique", "mean", "low", _latency, "s"),
        Metric("tokens", "length of an answer", "mean", "low", attrgetter("tokens"), "tokens"),
    )
}


def slow_critiques_metric(limit: float) -> Metric:
    """Return whether a critique took longer than a limit: p95 is within it if the share is ≤ 0.05.

    A client that disconnected after the limit counts as slow; one that left earlier is unknown.
    """

    def is_slow(obs: Observation) -> bool | None:
        if obs.latency is None or (obs.outcome == "disconnected" and obs.latency <= limit):
            return None
        return obs.latency > limit

    description = f"critiques slower than {limit:g} s"
    return Metric("latency_p95_seconds", description, "share", "low", is_slow)


def double_exposed_clients(observations: Iterable[Observation]) -> set[tuple[int, str]]:
    """Return (step, client) of the clients that both arms answered within a step."""
    arms: dict[tuple[int, str], set[bool]] = {}
    for obs in observations:
        arms.setdefault((obs.step, obs.client), set()).add(obs.is_candidate)
    return {key for key, answered in arms.items() if len(answered) > 1}


@dataclass(frozen=True)
class TimedBand:
    """A band and the time of each of its entries, in seconds since 1970."""

    times: FloatArray
    band: Band


def estimate_arm(
    observations: Sequence[Observation], metric: Metric, is_candidate: bool
) -> TimedBand:
    """Return the running estimate of one arm over its jobs, without shadows."""
    timed_values = [
        (observation_time(obs, metric), value)
        for obs in observations
        if obs.is_candidate == is_candidate
        and not obs.is_shadow
        and (value := metric.value(obs)) is not None
    ]
    timed_values.sort(key=lambda pair: pair[0])
    times = np.array([time for time, _ in timed_values], float)
    values = np.array([value for _, value in timed_values], float)
    return TimedBand(times, share_band(values > 0) if metric.kind == "share" else mean_band(values))


def estimate_difference(
    observations: Sequence[Observation],
    metric: Metric,
    sign: float = 1.0,
    level: float = CONFIDENCE_LEVEL,
) -> TimedBand:
    """Return the running difference of the arms over the clients of each step, without shadows.

    A client that was not assigned at random, or that both arms answered, is left out.

    sign  -1 for a metric of which less is better, so that above 0 is good
    """
    double_exposed = double_exposed_clients(obs for obs in observations if not obs.is_shadow)
    clients: dict[tuple[int, str], list[tuple[float, Observation]]] = {}
    for obs in sorted(observations, key=lambda obs: observation_time(obs, metric)):
        value, client = metric.value(obs), (obs.step, obs.client)
        if value is not None and not obs.is_shadow and client not in double_exposed:
            clients.setdefault(client, []).append((value, obs))
    assigned = [samples for samples in clients.values() if 0 < samples[0][1].share < 1]
    values = [np.mean([value for value, _ in samples]) for samples in assigned]
    first_jobs = [samples[0][1] for samples in assigned]
    band = difference_band(
        sign * np.array(values, float),
        np.array([obs.is_candidate for obs in first_jobs], bool),
        np.array([obs.share for obs in first_jobs], float),
        level=level,
        span=1.0 if metric.kind == "share" else 0.0,
    )
    return TimedBand(np.array([observation_time(obs, metric) for obs in first_jobs], float), band)


def paired_values(
    observations: Sequence[Observation], metric: Metric
) -> tuple[FloatArray, FloatArray]:
    """Return (candidate, control) means of the photos of each client that both arms critiqued.

    Shadow jobs make such pairs. A client with many photos counts once.
    """
    by_id = {obs.id: obs for obs in observations}
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for obs in observations:
        other = by_id.get(obs.pair_of) if obs.is_shadow else None
        if other is None or other.is_candidate == obs.is_candidate:
            continue
        candidate, control = (obs, other) if obs.is_candidate else (other, obs)
        values = metric.value(candidate), metric.value(control)
        if None not in values:
            pairs.setdefault(other.client, []).append(values)
    means = [np.mean(np.array(values, float), axis=0) for values in pairs.values()]
    array = np.array(means, float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def observation_time(obs: Observation, metric: Metric) -> float:
    """Return when the value of a metric was known, in seconds since 1970."""
    return obs.rated_at if metric.is_rated else obs.ended_at
