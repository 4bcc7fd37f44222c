"""What is measured of each job, and what of it is an observation.

A client counts once in a comparison: with the mean of what it saw at a step. A client that is seen
on both sides of one step tells nothing, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mondrian.core.fields import Floats
from mondrian.rollout.observations import Seen


@dataclass(frozen=True)
class Metric:
    """A number of a job; `value` is None where the job does not have it.

    kind    share (each value 0 or 1) or mean
    better  high or low
    rated   a person gave it, so it was observed when they did
    """

    name: str
    told: str
    kind: Literal["share", "mean"]
    better: Literal["high", "low"]
    value: Callable[[Seen], float | None]
    unit: str = ""
    rated: bool = False


def _of(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _ended(one: Seen) -> bool:
    return one.outcome in ("completed", "failed")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("compliance", "answers in form", "share", "high", lambda s: _of(s.compliant)),
        Metric("failures", "failed, at first or for good", "share", "low",
               lambda s: _of(s.outcome == "failed" or s.tried_again) if _ended(s) else None),
        Metric("fallbacks", "answered by the base in its place", "share", "low",
               lambda s: _of(s.fell_back) if s.outcome == "completed" else None),
        Metric("approval", "thumbs up among rated", "share", "high",
               lambda s: None if s.thumbs is None else _of(s.thumbs > 0), rated=True),
        Metric("thumbs_down", "thumbs down among rated", "share", "low",
               lambda s: None if s.thumbs is None else _of(s.thumbs < 0), rated=True),
        Metric("acceptance", "taken as it was, among decided", "share", "high",
               lambda s: _of(s.accepted), rated=True),
        Metric("correction", "how far a person moved scores", "mean", "low",
               lambda s: s.moved, "points", rated=True),
        Metric("latency", "once begun, to the critique", "mean", "low",
               lambda s: s.seconds if s.outcome == "completed" else None, "s"),
        Metric("tokens", "length of an answer", "mean", "low",
               lambda s: None if s.tokens is None else float(s.tokens), "tokens"),
    )
}  # fmt: skip


def slow(limit: float) -> Metric:
    """Whether a critique took longer than a limit: p95 is within it where this is at most 0.05.

    Who left later than the limit saw a slow one; of who left sooner nothing is known.
    """

    def value(one: Seen) -> float | None:
        if one.seconds is None or (one.outcome == "gone" and one.seconds <= limit):
            return None
        return _of(one.seconds > limit)

    return Metric(
        "latency_p95_seconds", f"critiques slower than {limit:g} s", "share", "low", value
    )


def doubly_exposed(seen: Iterable[Seen]) -> set[tuple[int, str]]:
    """(step, subject) of clients that both arms answered within a step."""
    sides: dict[tuple[int, str], set[bool]] = {}
    for one in seen:
        sides.setdefault((one.step, one.subject), set()).add(one.candidate)
    return {key for key, both in sides.items() if len(both) > 1}


@dataclass(frozen=True)
class Observations:
    """Values of one metric, a client of a step each, in the order in which they were first seen.

    when  seconds since 1970
    """

    values: Floats
    candidate: np.ndarray
    share: Floats
    when: Floats


def observations(seen: Sequence[Seen], metric: Metric) -> Observations:
    """What a comparison of the arms is made of: no shadows, nobody who saw both arms."""
    double = doubly_exposed(one for one in seen if not one.shadow)
    units: dict[tuple[int, str], list[tuple[float, Seen]]] = {}
    timed = sorted(seen, key=lambda one: _when(one, metric))
    for one in timed:
        value = metric.value(one)
        key = (one.step, one.subject)
        if value is not None and not one.shadow and key not in double:
            units.setdefault(key, []).append((value, one))
    firsts = [all[0][1] for all in units.values()]
    return Observations(
        np.array([np.mean([value for value, _ in all]) for all in units.values()], float),
        np.array([one.candidate for one in firsts], bool),
        np.array([one.share for one in firsts], float),
        np.array([_when(one, metric) for one in firsts], float),
    )


def of_arm(seen: Sequence[Seen], metric: Metric, candidate: bool) -> tuple[Floats, Floats]:
    """Values of an arm, a job each, and when they were seen; no shadows."""
    found = [
        (_when(one, metric), value)
        for one in seen
        if one.candidate == candidate
        and not one.shadow
        and (value := metric.value(one)) is not None
    ]
    found.sort(key=lambda pair: pair[0])
    values = np.array([value for _, value in found], float)
    return values, np.array([when for when, _ in found], float)


def pairs(seen: Sequence[Seen], metric: Metric) -> tuple[Floats, Floats]:
    """(candidate, control) values for one photograph each: of jobs and their shadows."""
    at = {one.id: one for one in seen}
    found = []
    for one in seen:
        other = at.get(one.pair_of) if one.shadow else None
        if other is None or other.candidate == one.candidate:
            continue
        a, b = (one, other) if one.candidate else (other, one)
        values = metric.value(a), metric.value(b)
        if None not in values:
            found.append(values)
    told = np.array(found, float).reshape(-1, 2)
    return told[:, 0], told[:, 1]


def _when(one: Seen, metric: Metric) -> float:
    return one.judged if metric.rated else one.ended
