"""Assessment of a candidate: exposure, guardrails, success metric and sample-ratio check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    MISMATCH_LEVEL,
    Interval,
    mismatch_e_values,
    paired_band,
)
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.guardrails import GuardrailResult, check_guardrails
from mondrian.rollout.metrics import (
    METRICS,
    Metric,
    double_exposed_clients,
    estimate_difference,
    paired_values,
)
from mondrian.rollout.observations import Observation

MAX_DOUBLE_EXPOSED_SHARE = 0.01  # of clients that both arms may answer within a step


@dataclass(frozen=True)
class Exposure:
    """Jobs of an arm by outcome, without shadows."""

    jobs: int
    clients: int
    completed: int
    failed: int
    disconnected: int
    open: int
    rated: int


@dataclass(frozen=True)
class SuccessResult:
    """The success metric: candidate minus control, signed so that above 0 is good.

    paired   the same over photos that both arms critiqued
    verdict  worse: by more than the margin; not worse: non-inferior within the margin
    """

    metric: str
    margin: float
    difference: Interval
    paired: Interval

    @property
    def narrower(self) -> Interval:
        """The interval that the verdict is based on."""
        return min(self.difference, self.paired, key=lambda interval: interval.high - interval.low)

    @property
    def verdict(self) -> Literal["no data", "better", "not worse", "worse", "inconclusive"]:
        if not self.narrower.count:
            return "no data"
        if self.narrower.high < -self.margin:
            return "worse"
        if self.narrower.low > 0:
            return "better"
        return "not worse" if self.narrower.low > -self.margin else "inconclusive"


@dataclass(frozen=True)
class AssignmentCheck:
    """Sample-ratio check: whether clients reached the arms as they were assigned.

    random_clients  clients assigned at random, with a share above 0 and below 1
    expected, actual
                    share of them for the candidate; None without such clients
    e_value         evidence of a sample-ratio mismatch; an alarm from 1 / MISMATCH_LEVEL on
    double_exposed  clients, of `clients`, that both arms answered within a step
    """

    random_clients: int
    expected: float | None
    actual: float | None
    e_value: float
    double_exposed: int
    clients: int

    @property
    def error(self) -> str:
        """The reason why no decision can be trusted; empty if there is none."""
        if self.e_value >= 1 / MISMATCH_LEVEL:
            return (
                "the arms did not get the assigned share of clients (sample-ratio mismatch, "
                f"e-value {self.e_value:.0f}): jobs of one arm are lost or counted twice"
            )
        if self.double_exposed > MAX_DOUBLE_EXPOSED_SHARE * self.clients:
            return (
                f"{self.double_exposed} of {self.clients} clients were answered by both arms "
                "within a step"
            )
        return ""


@dataclass(frozen=True)
class Assessment:
    """Everything that a decision is based on.

    rated      share of critiques that clients rate, candidate minus control
    step_jobs  critiques requested from the candidate at the current step
    """

    candidate: Exposure
    control: Exposure
    guardrails: tuple[GuardrailResult, ...]
    success: SuccessResult
    rated: Interval
    assignment: AssignmentCheck
    step_jobs: int


def assess(
    observations: Sequence[Observation],
    config: RolloutConfig,
    step: int,
    resumed_at: float = 0.0,
) -> Assessment:
    """Assess a rollout that is at a step.

    resumed_at  when a person resumed it last, seconds since 1970; 0 if never
    """
    live_jobs = [obs for obs in observations if not obs.is_shadow]
    return Assessment(
        count_exposure(live_jobs, True),
        count_exposure(live_jobs, False),
        check_guardrails(observations, config.guardrails, step),
        evaluate_success(observations, METRICS[config.success.metric], config.success.margin),
        estimate_difference(observations, METRICS["rated"]).band.last,
        check_assignment(live_jobs, resumed_at),
        sum(obs.is_candidate and obs.step == step for obs in live_jobs),
    )


def count_exposure(observations: Sequence[Observation], is_candidate: bool) -> Exposure:
    jobs = [obs for obs in observations if obs.is_candidate == is_candidate]
    outcomes = {
        outcome: sum(obs.outcome == outcome for obs in jobs)
        for outcome in ("completed", "failed", "disconnected", "open")
    }
    rated = sum(obs.has_rating for obs in jobs)
    return Exposure(len(jobs), len({obs.client for obs in jobs}), rated=rated, **outcomes)


def evaluate_success(
    observations: Sequence[Observation], metric: Metric, margin: float
) -> SuccessResult:
    """Compare the arms by the success metric, over clients and over pairs."""
    sign = 1.0 if metric.better == "high" else -1.0
    candidate, control = paired_values(observations, metric)
    # With pairs, the narrower of two intervals counts: they share the probability of an error.
    level = 1 - (1 - CONFIDENCE_LEVEL) / 2 if len(candidate) else CONFIDENCE_LEVEL
    difference = estimate_difference(observations, metric, sign, level).band.last
    paired = paired_band(sign * candidate, sign * control, level=level).last
    return SuccessResult(metric.name, margin, difference, paired)


def check_assignment(observations: Sequence[Observation], since: float) -> AssignmentCheck:
    """Compare the assignment of clients with the recorded shares; without shadows.

    since  of the jobs, in seconds since 1970: a mismatch that a person has repaired before they
           resumed the rollout raises no alarm again
    """
    observations = [obs for obs in observations if obs.queued_at >= since]
    clients: dict[tuple[int, str], Observation] = {}  # by their first job of a step
    for obs in sorted(observations, key=lambda obs: obs.queued_at):
        clients.setdefault((obs.step, obs.client), obs)
    assigned = [obs for obs in clients.values() if 0 < obs.share < 1]
    e_value, expected, actual = 1.0, None, None
    if assigned:
        in_candidate = np.array([obs.is_candidate for obs in assigned], bool)
        shares = np.array([obs.share for obs in assigned], float)
        # The newest value, not the largest: what a person should know now.
        e_value = float(mismatch_e_values(in_candidate, shares)[-1])
        expected = sum(obs.share for obs in assigned) / len(assigned)
        actual = sum(obs.is_candidate for obs in assigned) / len(assigned)
    double_exposed = len(double_exposed_clients(observations))
    return AssignmentCheck(len(assigned), expected, actual, e_value, double_exposed, len(clients))
