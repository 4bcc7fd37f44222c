"""What can be done with a roll-out, by the service or by a person: each is one logged change."""

from __future__ import annotations

import time

from mondrian.core.errors import MondrianError
from mondrian.rollout.assessment import assess
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import Verdict, decide
from mondrian.rollout.observations import load_observations
from mondrian.rollout.store import BACK, HELD, RUNNING, RolloutRecord, RolloutStore

ACTIONS = ("advance", "hold", "resume", "rollback")


class InvalidTransition(MondrianError):
    """What cannot be done with a roll-out as it stands."""


def current_verdict(
    rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord, now: float
) -> Verdict:
    """What the numbers of this moment lead to; now is in seconds since 1970."""
    observations = load_observations(rollouts.engine, entry.id, entry.evidence_from)
    return decide(assess(observations, settings, entry.step), entry, settings, now)


def advance(
    rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord, who: str, why: str
) -> bool:
    """Let the next step begin. Raises NotNow at the last one, or where it was rolled back."""
    if entry.state == BACK:
        raise InvalidTransition(
            f"{entry.name} was rolled back ({entry.why}); resume it to begin again"
        )
    step = entry.step + 1
    if step >= len(settings.steps):
        raise InvalidTransition(
            f"{entry.name} is at the last step of {len(settings.steps)} already"
        )
    now = time.time()
    full = settings.steps[step].share == 1
    return rollouts.change(
        entry,
        who,
        "advance",
        why,
        step=step,
        step_began=now,
        state=RUNNING,
        full_since=entry.full_since or (now if full else None),
    )


def hold(rollouts: RolloutStore, entry: RolloutRecord, who: str, why: str) -> bool:
    """Stay at this step until a person resumes or advances; guardrails still roll it back."""
    if entry.state != RUNNING:
        raise InvalidTransition(f"{entry.name} is {entry.state}; there is nothing to hold")
    return rollouts.change(entry, who, "hold", why, state=HELD)


def resume(rollouts: RolloutStore, entry: RolloutRecord, who: str, why: str) -> bool:
    """Go on; one that was rolled back begins anew at the first step, with new evidence."""
    if entry.state == RUNNING:
        raise InvalidTransition(f"{entry.name} is running already")
    if entry.state == HELD:
        return rollouts.change(entry, who, "resume", why, state=RUNNING)
    now = time.time()
    return rollouts.change(
        entry,
        who,
        "resume",
        why,
        state=RUNNING,
        step=0,
        step_began=now,
        evidence_from=now,
        full_since=None,
    )


def roll_back(rollouts: RolloutStore, entry: RolloutRecord, who: str, why: str) -> bool:
    """Let the candidate answer nobody."""
    if entry.state == BACK:
        raise InvalidTransition(f"{entry.name} was rolled back already ({entry.why})")
    return rollouts.change(entry, who, "roll back", why, state=BACK)


def apply_action(
    rollouts: RolloutStore,
    settings: RolloutConfig,
    entry: RolloutRecord,
    action: str,
    who: str,
    why: str,
) -> bool:
    """One of ACTIONS; False where another was quicker. Raises NotNow."""
    match action:
        case "advance":
            return advance(rollouts, settings, entry, who, why)
        case "hold":
            return hold(rollouts, entry, who, why)
        case "resume":
            return resume(rollouts, entry, who, why)
        case "rollback":
            return roll_back(rollouts, entry, who, why)
    raise InvalidTransition(f"a roll-out can {', '.join(ACTIONS)}; not {action[:40]!r}")
