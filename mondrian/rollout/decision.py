"""Assessment -> verdict: advance, hold or roll back, with the reason in one sentence."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mondrian.rollout.assessment import Assessment
from mondrian.rollout.confidence_sequences import Interval
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.formatting import (
    format_difference,
    format_guardrail_verdict,
    format_hours,
    format_limit,
    percent,
    plural,
)
from mondrian.rollout.guardrails import GuardrailResult
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.store import HELD, REPLACED, ROLLED_BACK, RolloutRecord


class RolloutStatus(StrEnum):
    NO_DATA = "no data"
    HEALTHY = "healthy"
    HOLDING = "holding"
    FAILING = "failing"
    READY = "ready"
    ROLLED_BACK = "rolled back"
    REPLACED = "replaced"


STATUS_MEANINGS = {
    RolloutStatus.NO_DATA: "no critique was requested from the candidate yet",
    RolloutStatus.HEALTHY: "guardrails hold; the step continues",
    RolloutStatus.HOLDING: "inconclusive, or held by a check or a person: the share stays",
    RolloutStatus.FAILING: "a guardrail is violated or success is worse: it is rolled back",
    RolloutStatus.READY: "the next step can start",
    RolloutStatus.ROLLED_BACK: "the candidate serves no client; a person can start it again",
    RolloutStatus.REPLACED: "its rollout continues if its version is activated again",
}


@dataclass(frozen=True)
class RolloutVerdict:
    status: RolloutStatus
    action: Literal["advance", "hold", "roll back", ""]
    reason: str


def decide(
    assessment: Assessment, record: RolloutRecord, config: RolloutConfig, now: float
) -> RolloutVerdict:
    """Return the verdict on a rollout.

    now  seconds since 1970; a clock that was set back only makes a step longer
    """
    if record.state == ROLLED_BACK:
        return RolloutVerdict(RolloutStatus.ROLLED_BACK, "", record.reason)
    if record.state == REPLACED:
        reason = "another version is active; this one answers at most as its control"
        return RolloutVerdict(RolloutStatus.REPLACED, "", reason)
    if violations := _describe_violations(assessment):
        return RolloutVerdict(RolloutStatus.FAILING, "roll back", violations)
    if not assessment.candidate.jobs and record.state != HELD:
        return RolloutVerdict(RolloutStatus.NO_DATA, "", "no critique was requested yet")
    hours = max(0.0, now - record.step_started_at) / 3600
    if assessment.assignment.error and record.state != HELD:
        return RolloutVerdict(RolloutStatus.HOLDING, "hold", assessment.assignment.error)
    if hold_reason := _explain_hold(assessment, record):
        return _hold(hold_reason, record, config, hours)
    index = min(record.step, len(config.steps) - 1)
    step = config.steps[index]
    if index == len(config.steps) - 1:
        reason = f"at the last step, {percent(step.share)} of clients"
        return RolloutVerdict(RolloutStatus.HEALTHY, "", reason)
    if hours < step.hours or assessment.step_jobs < step.jobs:
        progress = format_progress(assessment.step_jobs, step.jobs, hours, step.hours)
        return RolloutVerdict(RolloutStatus.HEALTHY, "", f"{progress} of this step")
    if shortfall := _explain_shortfall(assessment, step.requires):
        return _hold(shortfall, record, config, hours)
    shares = f"{percent(step.share)} → {percent(config.steps[index + 1].share)} of clients"
    reason = f"{_explain_advance(assessment)}; {shares}"
    return RolloutVerdict(RolloutStatus.READY, "advance", reason)


def _hold(
    reason: str, record: RolloutRecord, config: RolloutConfig, hours: float
) -> RolloutVerdict:
    """Return a verdict that holds; after `max_hours` it asks a person to decide."""
    if hours > config.max_hours and record.state != HELD:
        question = f"please decide: mondrian rollout {record.advisor} --advance or --rollback"
        reason = f"{reason}; {format_hours(hours)} at this step, {question}"
    return RolloutVerdict(RolloutStatus.HOLDING, "", reason)


def format_progress(jobs: int, jobs_required: int, hours: float, hours_required: float) -> str:
    critiques = f"{jobs} of {jobs_required} critiques"
    return f"{critiques}, {format_hours(hours)} of {format_hours(hours_required)}"


def _describe_violations(assessment: Assessment) -> str:
    reasons = _describe_guardrails(assessment, "violated")
    success = assessment.success
    if success.verdict == "worse":
        change = "lower" if METRICS[success.metric].better == "high" else "worse"
        reasons.append(
            f"{success.metric} is {change} by more than {success.margin:g}: "
            f"{format_difference(success.narrower)}"
        )
    return "; ".join(reasons)


def _explain_hold(assessment: Assessment, record: RolloutRecord) -> str:
    if record.state == HELD:
        held = "held until a person resumes it"
        return f"{held}: {record.reason}" if record.reason else held
    return "; ".join(_describe_guardrails(assessment, "not surely worse", "uncertain"))


def _explain_shortfall(assessment: Assessment, requires: str) -> str:
    """Return which requirement of the step is not met; empty if all are."""
    success = assessment.success
    accepted = {"not_worse": ("better", "not worse"), "better": ("better",)}
    if requires == "guardrails":
        return ""
    if assessment.rated.low > 0 or assessment.rated.high < 0:
        return (
            "the clients of the arms do not rate equally often, so their ratings cannot be "
            f"compared: {format_difference(assessment.rated)}"
        )
    if success.verdict in accepted[requires]:
        return ""
    if success.verdict == "no data":
        return f"inconclusive: {success.metric} is unknown, because both arms need ratings"
    requirement = "better" if requires == "better" else f"non-inferior within {success.margin:g}"
    return (
        f"inconclusive: {success.metric} is not shown to be {requirement}: "
        f"{format_difference(success.narrower)}"
    )


def _explain_advance(assessment: Assessment) -> str:
    success = assessment.success
    text = f"{assessment.step_jobs} critiques, guardrails hold"
    if success.verdict in ("better", "not worse"):
        text += f", {success.metric} {success.verdict}: {format_difference(success.narrower)}"
    return text


def _describe_guardrails(assessment: Assessment, *verdicts: str) -> list[str]:
    return [
        _describe_guardrail(result)
        for result in assessment.guardrails
        if result.verdict in verdicts
    ]


def _describe_guardrail(result: GuardrailResult) -> str:
    newest = f" in the newest {result.newest_jobs} critiques" if result.newest_jobs else ""
    limit = format_limit(result.limit, result.is_minimum)
    control = f", control {_describe_share(result.control)}" if result.control.count else ""
    return (
        f"{result.description} ({result.name}): {_describe_share(result.estimate)}{newest}, "
        f"limit {limit}{control}: {format_guardrail_verdict(result.verdict)}"
    )


def _describe_share(share: Interval) -> str:
    interval = f"{percent(share.low)} to {percent(share.high)}"
    return f"{percent(share.mean)} of {plural(share.count, 'client')} ({interval})"
