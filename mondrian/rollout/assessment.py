"""Evidence -> how the candidate does: exposure, guardrails, success, a fair deal or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    Interval,
    paired_band,
    share_band,
)
from mondrian.rollout.config import GuardrailLimits, RolloutConfig
from mondrian.rollout.estimates import estimate_difference
from mondrian.rollout.metrics import (
    METRICS,
    Metric,
    arm_values,
    double_exposed_clients,
    paired_values,
    slow_critiques_metric,
)
from mondrian.rollout.observations import Observation
from mondrian.rollout.sample_ratio import MISMATCH_LEVEL, mismatch_e_values

MAX_DOUBLE_EXPOSED_SHARE = 0.01  # of clients that may be seen in both arms within a step
MIN_OBSERVATIONS = (
    10  # observations below which a guardrail holds a candidate, and does not condemn it
)
_MAX_SLOW_SHARE = 0.05  # share of critiques beyond a p95


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
class GuardrailResult:
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
class SuccessResult:
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
    def narrower(self) -> Interval:
        """The one that the verdict is of."""
        return narrower_interval(self.difference, self.paired)


@dataclass(frozen=True)
class Assessment:
    """All that a decision rests on.

    mismatch  e-value against a fair deal; an alarm from 1 / MISMATCH_LEVEL on
    double_exposed    clients that saw both arms within a step, of `clients`
    assignment_error     why no decision can be trusted; empty where it can
    step_jobs critiques that the candidate was asked for at the step it is at
    """

    candidate: Exposure
    control: Exposure
    guards: tuple[GuardrailResult, ...]
    success: SuccessResult
    mismatch: float
    double_exposed: int
    clients: int
    assignment_error: str
    step_jobs: int


def assess(observations: Sequence[Observation], settings: RolloutConfig, step: int) -> Assessment:
    """How a roll-out that is at a step stands."""
    live_jobs = [obs for obs in observations if not obs.shadow]
    mismatch, double, clients = check_assignment(live_jobs)
    return Assessment(
        count_exposure(live_jobs, True),
        count_exposure(live_jobs, False),
        check_guardrails(observations, settings.guardrails),
        evaluate_success(observations, METRICS[settings.success.metric], settings.success.margin),
        mismatch,
        double,
        clients,
        _describe_assignment_error(mismatch, double, clients),
        sum(obs.candidate and obs.step == step for obs in live_jobs),
    )


def count_exposure(observations: Sequence[Observation], candidate: bool) -> Exposure:
    """What an arm was asked for."""
    own = [obs for obs in observations if obs.candidate == candidate]
    count = {
        kind: sum(obs.outcome == kind for obs in own)
        for kind in ("completed", "failed", "gone", "open")
    }
    rated = sum(obs.thumbs is not None or obs.accepted is not None for obs in own)
    return Exposure(len(own), len({obs.subject for obs in own}), rated=rated, **count)


def check_guardrails(
    observations: Sequence[Observation], limits: GuardrailLimits
) -> tuple[GuardrailResult, ...]:
    """Each guardrail, of the candidate alone."""
    rules = [
        (METRICS["compliance"], limits.compliance, True),
        (METRICS["failures"], limits.failures, False),
        (METRICS["fallbacks"], limits.fallbacks, False),
        (slow_critiques_metric(limits.latency_p95_seconds), _MAX_SLOW_SHARE, False),
        (METRICS["thumbs_down"], limits.thumbs_down, False),
    ]
    return tuple(_check_guardrail(observations, *rule) for rule in rules)


def _check_guardrail(
    observations: Sequence[Observation], metric: Metric, limit: float, is_minimum: bool
) -> GuardrailResult:
    values, _ = arm_values(observations, metric, candidate=True)
    estimate = share_band(values > 0).last
    verdict: Literal["no data", "holds", "doubtful", "broken"] = "holds"
    if not estimate.count:
        verdict = "no data"
    elif estimate.count >= MIN_OBSERVATIONS and (
        estimate.high < limit if is_minimum else estimate.low > limit
    ):
        verdict = "broken"
    elif estimate.mean < limit if is_minimum else estimate.mean > limit:
        verdict = "doubtful"
    return GuardrailResult(metric.name, metric.description, estimate, limit, is_minimum, verdict)


def evaluate_success(
    observations: Sequence[Observation], metric: Metric, margin: float
) -> SuccessResult:
    """The metric of success in both arms; pairs decide where they are the more certain."""
    sign = 1.0 if metric.better == "high" else -1.0
    new, old = paired_values(observations, metric)
    # Once there are pairs, two intervals of which the narrower counts share the chance to be wrong.
    level = 1 - (1 - CONFIDENCE_LEVEL) / 2 if len(new) else CONFIDENCE_LEVEL
    unpaired = estimate_difference(observations, metric, sign, level).band.last
    paired = paired_band(sign * new, sign * old, level=level).last
    return SuccessResult(
        metric.name,
        margin,
        unpaired,
        paired,
        _success_verdict(narrower_interval(unpaired, paired), margin),
    )


def narrower_interval(difference: Interval, paired: Interval) -> Interval:
    """The narrower one."""
    return min(difference, paired, key=lambda interval: interval.high - interval.low)


def _success_verdict(
    interval: Interval, margin: float
) -> Literal["no data", "better", "not worse", "worse", "inconclusive"]:
    if not interval.count:
        return "no data"
    if interval.high < -margin:
        return "worse"
    if interval.low > 0:
        return "better"
    return "not worse" if interval.low > -margin else "inconclusive"


def check_assignment(observations: Sequence[Observation]) -> tuple[float, int, int]:
    """e-value of a deal other than meant, clients seen in both arms of a step, and all clients."""
    clients = first_observations(observations)
    assigned = [client for client in clients if 0 < client.share < 1]
    candidate = np.array([client.candidate for client in assigned], bool)
    running = mismatch_e_values(candidate, np.array([client.share for client in assigned], float))
    mismatch = float(running[-1]) if len(running) else 1.0  # as it is now: a false alarm passes
    return mismatch, len(double_exposed_clients(observations)), len(clients)


def first_observations(observations: Sequence[Observation]) -> list[Observation]:
    """The first job of each client of a step: the one that it was dealt with."""
    first_by_client: dict[tuple[int, str], Observation] = {}
    for obs in sorted(observations, key=lambda obs: obs.queued_at):
        first_by_client.setdefault((obs.step, obs.subject), obs)
    return list(first_by_client.values())


def _describe_assignment_error(mismatch: float, double: int, clients: int) -> str:
    if mismatch >= 1 / MISMATCH_LEVEL:
        return (
            "the arms did not get the share of clients that was dealt to them (sample ratio "
            f"mismatch, e-value {mismatch:.0f}): jobs of one arm are lost or counted twice"
        )
    if double > MAX_DOUBLE_EXPOSED_SHARE * clients:
        return f"{double} of {clients} clients were answered by both arms within a step"
    return ""
