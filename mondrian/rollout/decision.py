"""Assessment -> what to do: advance, hold or roll back, and why, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Literal

from mondrian.rollout.assessment import Assessment, Guard
from mondrian.rollout.confidence_sequences import Interval
from mondrian.rollout.config import Rollout
from mondrian.rollout.formatting import percent
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.store import BACK, HELD, Entry


class Status(StrEnum):
    """How a roll-out is, for people."""

    NO_DATA = "no data"
    HEALTHY = "healthy"
    HOLDING = "holding"
    FAILING = "failing"
    READY = "ready"
    ROLLED_BACK = "rolled back"


MEANING = {
    Status.NO_DATA: "the candidate has not been asked yet",
    Status.HEALTHY: "guardrails hold; the step goes on",
    Status.HOLDING: "inconclusive, or held by a check or a person: it stays where it is",
    Status.FAILING: "a guardrail is surely broken, or success surely lower: it is rolled back",
    Status.READY: "the next step may begin",
    Status.ROLLED_BACK: "the candidate answers nobody; a person may begin it again",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """How it is, what follows, and why."""

    status: Status
    action: Literal["advance", "roll back", ""]
    why: str


def decide(found: Assessment, entry: Entry, settings: Rollout, now: float) -> Verdict:
    """What follows from the numbers for a roll-out as it stands.

    now  seconds since 1970; a clock that was set back lengthens a step, and does no more
    """
    if entry.state == BACK:
        return Verdict(Status.ROLLED_BACK, "", entry.why)
    if bad := _broken(found):
        return Verdict(Status.FAILING, "roll back", bad)
    if not found.candidate.jobs:
        return Verdict(Status.NO_DATA, "", "no critique was asked of it yet")
    if held := _held(found, entry):
        return Verdict(Status.HOLDING, "", held)
    place = min(entry.step, len(settings.steps) - 1)
    step, last = settings.steps[place], place == len(settings.steps) - 1
    if last:
        return Verdict(Status.HEALTHY, "", f"at the last step, {percent(step.share)} of clients")
    hours = max(0.0, now - entry.step_began) / 3600
    if hours < step.hours or found.step_jobs < step.jobs:
        return Verdict(Status.HEALTHY, "", (
            f"{found.step_jobs} of {step.jobs} critiques, {_hours(hours)} of {_hours(step.hours)} "
            "of this step"
        ))  # fmt: skip
    if short := _asked(found, step.asks):
        return Verdict(Status.HOLDING, "", short)
    coming = settings.steps[place + 1].share
    why = f"{_reasons(found)}; {percent(step.share)} → {percent(coming)} of clients"
    return Verdict(Status.READY, "advance", why)


def _broken(found: Assessment) -> str:
    broken = [_told(one) for one in found.guards if one.verdict == "broken"]
    if found.success.verdict == "worse":
        broken.append(
            f"{found.success.metric} is surely {_fallen(found)} by more than "
            f"{found.success.margin:g}: {_interval(found.success.surer)}"
        )
    return "; ".join(broken)


def _held(found: Assessment, entry: Entry) -> str:
    if entry.state == HELD:
        return f"held by a person: {entry.why}" if entry.why else "held by a person"
    if found.fault:
        return found.fault
    doubtful = [_told(one) for one in found.guards if one.verdict == "doubtful"]
    return "; ".join(doubtful)


def _asked(found: Assessment, asks: str) -> str:
    """What a step asks of success and does not get; empty where it does."""
    verdict, metric = found.success.verdict, found.success.metric
    enough = {"guardrails": True, "not_worse": verdict in ("better", "not worse"),
              "better": verdict == "better"}  # fmt: skip
    if enough[asks]:
        return ""
    if verdict == "no data":
        return f"inconclusive: nobody has judged both arms, so {metric} is unknown"
    least = f"no {_fallen(found)} than by {found.success.margin:g}"
    asked = least if asks == "not_worse" else "higher" if _fallen(found) == "lower" else "better"
    return f"inconclusive: {metric} is not surely {asked}: {_interval(found.success.surer)}"


def _fallen(found: Assessment) -> str:
    """What a drop of success is called: of a metric where less is better it is a rise."""
    return "lower" if METRICS[found.success.metric].better == "high" else "worse"


def _reasons(found: Assessment) -> str:
    success = found.success
    told = f"{found.step_jobs} critiques, guardrails hold"
    if success.verdict in ("better", "not worse"):
        told += f", {success.metric} {success.verdict}: {_interval(found.success.surer)}"
    return told


def _told(guard: Guard) -> str:
    sure = "surely " if guard.verdict == "broken" else ""
    side = "below" if guard.least else "above"
    found = guard.found
    return (
        f"{guard.told} ({guard.name}): {percent(found.mean)} of {found.count}, {sure}{side} "
        f"{percent(guard.limit)} ({percent(found.low)} to {percent(found.high)})"
    )


def _interval(found: Interval) -> str:
    if not isfinite(found.low):
        return f"{found.count} observations are too few for an interval"
    return f"{found.mean:+.3g} ({found.low:+.3g} to {found.high:+.3g}, {found.count} observations)"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"
