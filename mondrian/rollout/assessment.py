"""Evidence -> how the candidate does: exposure, guardrails, success, a fair deal or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mondrian.rollout.confidence_sequences import LEVEL, Interval, paired_band, share_band
from mondrian.rollout.config import Guardrails, Rollout
from mondrian.rollout.estimates import difference
from mondrian.rollout.metrics import (
    METRICS,
    Metric,
    doubly_exposed,
    of_arm,
    pairs,
    slow,
)
from mondrian.rollout.observations import Seen
from mondrian.rollout.sample_ratio import MISMATCH_LEVEL, imbalance

DOUBLE_SHARE = 0.01  # of clients that may be seen in both arms within a step
ENOUGH = 10  # observations below which a guardrail holds a candidate, and does not condemn it
_SLOW = 0.05  # share of critiques beyond a p95


@dataclass(frozen=True)
class Exposure:
    """Jobs of an arm by what became of them; no shadows."""

    jobs: int
    subjects: int
    completed: int
    failed: int
    gone: int
    open: int
    rated: int


@dataclass(frozen=True)
class Guard:
    """A guardrail: the candidate's share, its interval, and the limit that is not to be passed.

    verdict  broken where it is surely beyond the limit, doubtful where it is but not surely
    """

    name: str
    told: str
    found: Interval
    limit: float
    least: bool
    verdict: Literal["no data", "holds", "doubtful", "broken"]


@dataclass(frozen=True)
class Outcome:
    """The metric of success: candidate less control, signed so that above 0 is good.

    paired   the same from photographs that both arms critiqued
    verdict  worse is surely worse by more than the margin
    """

    metric: str
    margin: float
    difference: Interval
    paired: Interval
    verdict: Literal["no data", "better", "not worse", "worse", "inconclusive"]

    @property
    def surer(self) -> Interval:
        """The one that the verdict is of."""
        return surer(self.difference, self.paired)


@dataclass(frozen=True)
class Assessment:
    """All that a decision rests on.

    mismatch  e-value against a fair deal; an alarm from 1 / MISMATCH_LEVEL on
    double    clients that saw both arms within a step, of `clients`
    fault     why no decision can be trusted; empty where it can
    step_jobs critiques that the candidate was asked for at the step it is at
    """

    candidate: Exposure
    control: Exposure
    guards: tuple[Guard, ...]
    success: Outcome
    mismatch: float
    double: int
    clients: int
    fault: str
    step_jobs: int


def assess(seen: Sequence[Seen], settings: Rollout, step: int) -> Assessment:
    """How a roll-out that is at a step stands."""
    asked = [one for one in seen if not one.shadow]
    mismatch, double, clients = fairness(asked)
    return Assessment(
        exposure(asked, True), exposure(asked, False), guardrails(seen, settings.guardrails),
        outcome(seen, METRICS[settings.success.metric], settings.success.margin),
        mismatch, double, clients, _fault(mismatch, double, clients),
        sum(one.candidate and one.step == step for one in asked),
    )  # fmt: skip


def exposure(seen: Sequence[Seen], candidate: bool) -> Exposure:
    """What an arm was asked for."""
    own = [one for one in seen if one.candidate == candidate]
    count = {kind: sum(one.outcome == kind for one in own)
             for kind in ("completed", "failed", "gone", "open")}  # fmt: skip
    rated = sum(one.thumbs is not None or one.accepted is not None for one in own)
    return Exposure(len(own), len({one.subject for one in own}), rated=rated, **count)


def guardrails(seen: Sequence[Seen], limits: Guardrails) -> tuple[Guard, ...]:
    """Each guardrail, of the candidate alone."""
    asked = [
        (METRICS["compliance"], limits.compliance, True),
        (METRICS["failures"], limits.failures, False),
        (METRICS["fallbacks"], limits.fallbacks, False),
        (slow(limits.latency_p95_seconds), _SLOW, False),
        (METRICS["thumbs_down"], limits.thumbs_down, False),
    ]
    return tuple(_guard(seen, *one) for one in asked)


def _guard(seen: Sequence[Seen], metric: Metric, limit: float, least: bool) -> Guard:
    values, _ = of_arm(seen, metric, candidate=True)
    found = share_band(values > 0).last
    verdict: Literal["no data", "holds", "doubtful", "broken"] = "holds"
    if not found.count:
        verdict = "no data"
    elif found.count >= ENOUGH and (found.high < limit if least else found.low > limit):
        verdict = "broken"
    elif found.mean < limit if least else found.mean > limit:
        verdict = "doubtful"
    return Guard(metric.name, metric.told, found, limit, least, verdict)


def outcome(seen: Sequence[Seen], metric: Metric, margin: float) -> Outcome:
    """The metric of success in both arms; pairs decide where they are the more certain."""
    sign = 1.0 if metric.better == "high" else -1.0
    new, old = pairs(seen, metric)
    # Once there are pairs, two intervals of which the narrower counts share the chance to be wrong.
    level = 1 - (1 - LEVEL) / 2 if len(new) else LEVEL
    found = difference(seen, metric, sign, level).band.last
    paired = paired_band(sign * new, sign * old, level=level).last
    return Outcome(metric.name, margin, found, paired, _verdict(surer(found, paired), margin))


def surer(difference: Interval, paired: Interval) -> Interval:
    """The narrower one."""
    return min(difference, paired, key=lambda one: one.high - one.low)


def _verdict(
    found: Interval, margin: float
) -> Literal["no data", "better", "not worse", "worse", "inconclusive"]:
    if not found.count:
        return "no data"
    if found.high < -margin:
        return "worse"
    if found.low > 0:
        return "better"
    return "not worse" if found.low > -margin else "inconclusive"


def fairness(asked: Sequence[Seen]) -> tuple[float, int, int]:
    """e-value of a deal other than meant, clients seen in both arms of a step, and all clients."""
    clients = firsts(asked)
    dealt = [one for one in clients if 0 < one.share < 1]
    candidate = np.array([one.candidate for one in dealt], bool)
    running = imbalance(candidate, np.array([one.share for one in dealt], float))
    mismatch = float(running[-1]) if len(running) else 1.0  # as it is now: a false alarm passes
    return mismatch, len(doubly_exposed(asked)), len(clients)


def firsts(asked: Sequence[Seen]) -> list[Seen]:
    """The first job of each client of a step: the one that it was dealt with."""
    found: dict[tuple[int, str], Seen] = {}
    for one in sorted(asked, key=lambda one: one.asked):
        found.setdefault((one.step, one.subject), one)
    return list(found.values())


def _fault(mismatch: float, double: int, clients: int) -> str:
    if mismatch >= 1 / MISMATCH_LEVEL:
        return (
            "the arms did not get the share of clients that was dealt to them (sample ratio "
            f"mismatch, e-value {mismatch:.0f}): jobs of one arm are lost or counted twice"
        )
    if double > DOUBLE_SHARE * clients:
        return f"{double} of {clients} clients were answered by both arms within a step"
    return ""
