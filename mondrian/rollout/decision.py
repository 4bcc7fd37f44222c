"""Assessment -> what to do: advance, hold or roll back, and why, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Literal

from mondrian.rollout.assessment import Assessment, GuardrailResult
from mondrian.rollout.confidence_sequences import Interval
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.formatting import percent
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.store import BACK, HELD, RolloutRecord


class RolloutStatus(StrEnum):
    """How a roll-out is, for people."""

    NO_DATA = "no data"
    HEALTHY = "healthy"
    HOLDING = "holding"
    FAILING = "failing"
    READY = "ready"
    ROLLED_BACK = "rolled back"


STATUS_MEANINGS = {
    RolloutStatus.NO_DATA: "the candidate has not been asked yet",
    RolloutStatus.HEALTHY: "guardrails hold; the step goes on",
    RolloutStatus.HOLDING: "inconclusive, or held by a check or a person: it stays where it is",
    RolloutStatus.FAILING: (
        "a guardrail is surely broken, or success surely lower: it is rolled back"
    ),
    RolloutStatus.READY: "the next step may begin",
    RolloutStatus.ROLLED_BACK: "the candidate answers nobody; a person may begin it again",
}


@dataclass(frozen=True)
class Verdict:
    """How it is, what follows, and why."""

    status: RolloutStatus
    action: Literal["advance", "roll back", ""]
    why: str


def decide(
    assessment: Assessment, entry: RolloutRecord, settings: RolloutConfig, now: float
) -> Verdict:
    """What follows from the numbers for a roll-out as it stands.

    now  seconds since 1970; a clock that was set back lengthens a step, and does no more
    """
    if entry.state == BACK:
        return Verdict(RolloutStatus.ROLLED_BACK, "", entry.why)
    if bad := _explain_rollback(assessment):
        return Verdict(RolloutStatus.FAILING, "roll back", bad)
    if not assessment.candidate.jobs:
        return Verdict(RolloutStatus.NO_DATA, "", "no critique was asked of it yet")
    if hold_reason := _explain_hold(assessment, entry):
        return Verdict(RolloutStatus.HOLDING, "", hold_reason)
    place = min(entry.step, len(settings.steps) - 1)
    step, last = settings.steps[place], place == len(settings.steps) - 1
    if last:
        return Verdict(
            RolloutStatus.HEALTHY, "", f"at the last step, {percent(step.share)} of clients"
        )
    hours = max(0.0, now - entry.step_began) / 3600
    if hours < step.hours or assessment.step_jobs < step.jobs:
        return Verdict(
            RolloutStatus.HEALTHY,
            "",
            (
                f"{assessment.step_jobs} of {step.jobs} critiques, {_describe_hours(hours)} of "
                f"{_describe_hours(step.hours)} "
                "of this step"
            ),
        )
    if short := _explain_shortfall(assessment, step.requires):
        return Verdict(RolloutStatus.HOLDING, "", short)
    coming = settings.steps[place + 1].share
    why = f"{_explain_advance(assessment)}; {percent(step.share)} → {percent(coming)} of clients"
    return Verdict(RolloutStatus.READY, "advance", why)


def _explain_rollback(assessment: Assessment) -> str:
    broken = [_describe_guard(guard) for guard in assessment.guards if guard.verdict == "broken"]
    if assessment.success.verdict == "worse":
        broken.append(
            f"{assessment.success.metric} is surely {_drop_word(assessment)} by more than "
            f"{assessment.success.margin:g}: {_describe_interval(assessment.success.narrower)}"
        )
    return "; ".join(broken)


def _explain_hold(assessment: Assessment, entry: RolloutRecord) -> str:
    if entry.state == HELD:
        return f"held by a person: {entry.why}" if entry.why else "held by a person"
    if assessment.assignment_error:
        return assessment.assignment_error
    doubtful = [
        _describe_guard(guard) for guard in assessment.guards if guard.verdict == "doubtful"
    ]
    return "; ".join(doubtful)


def _explain_shortfall(assessment: Assessment, asks: str) -> str:
    """What a step asks of success and does not get; empty where it does."""
    verdict, metric = assessment.success.verdict, assessment.success.metric
    enough = {
        "guardrails": True,
        "not_worse": verdict in ("better", "not worse"),
        "better": verdict == "better",
    }
    if enough[asks]:
        return ""
    if verdict == "no data":
        return f"inconclusive: nobody has judged both arms, so {metric} is unknown"
    margin_text = f"no {_drop_word(assessment)} than by {assessment.success.margin:g}"
    requirement = (
        margin_text
        if asks == "not_worse"
        else "higher"
        if _drop_word(assessment) == "lower"
        else "better"
    )
    return (
        f"inconclusive: {metric} is not surely {requirement}: "
        f"{_describe_interval(assessment.success.narrower)}"
    )


def _drop_word(assessment: Assessment) -> str:
    """What a drop of success is called: of a metric where less is better it is a rise."""
    return "lower" if METRICS[assessment.success.metric].better == "high" else "worse"


def _explain_advance(assessment: Assessment) -> str:
    success = assessment.success
    text = f"{assessment.step_jobs} critiques, guardrails hold"
    if success.verdict in ("better", "not worse"):
        text += f", {success.metric} {success.verdict}: "
        f"{_describe_interval(assessment.success.narrower)}"
    return text


def _describe_guard(guard: GuardrailResult) -> str:
    sure = "surely " if guard.verdict == "broken" else ""
    side = "below" if guard.least else "above"
    estimate = guard.found
    return (
        f"{guard.told} ({guard.name}): {percent(estimate.mean)} of {estimate.count}, {sure}{side} "
        f"{percent(guard.limit)} ({percent(estimate.low)} to {percent(estimate.high)})"
    )


def _describe_interval(interval: Interval) -> str:
    if not isfinite(interval.low):
        return f"{interval.count} observations are too few for an interval"
    return (
        f"{interval.mean:+.3g} ({interval.low:+.3g} to {interval.high:+.3g}, {interval.count} "
        f"observations)"
    )


def _describe_hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
