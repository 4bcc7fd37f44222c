"""Actions on a rollout by the service or a person; each is one logged change."""

from dataclasses import replace

from mondrian.core.errors import MondrianError
from mondrian.rollout.assessment import assess
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import RolloutStatus, RolloutVerdict, decide
from mondrian.rollout.observations import load_observations
from mondrian.rollout.store import HELD, ROLLED_BACK, RUNNING, Actor, RolloutRecord, RolloutStore

ACTIONS = ("advance", "hold", "resume", "rollback")
MAX_REASON_CHARS, MAX_NAME_CHARS = 1000, 200  # of a reason, and of a person's name


class InvalidTransitionError(MondrianError):
    """An action that the state of the rollout does not allow."""


class MissingReasonError(InvalidTransitionError):
    """An action that is allowed with a reason only."""


def current_verdict(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, now: float
) -> RolloutVerdict:
    """Return the verdict on all jobs so far; now is in seconds since 1970."""
    observations = load_observations(store.engine, record.id, record.evidence_from)
    resumed_at = store.last_action_at(record.id, "resume") or 0.0
    return decide(assess(observations, config, record.step, resumed_at), record, config, now)


def advance(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, actor: Actor
) -> bool:
    """Start the next step. Raises InvalidTransitionError at the last step or if rolled back."""
    if record.state == ROLLED_BACK:
        raise InvalidTransitionError(
            f"{record.name} was rolled back ({record.reason}); resume it to start again"
        )
    step = record.step + 1
    if step >= len(config.steps):
        raise InvalidTransitionError(
            f"{record.name} is already at the last of {len(config.steps)} steps"
        )
    is_full = config.steps[step].share == 1
    full_since = record.full_since or (actor.now if is_full else None)
    changes = {"step_started_at": actor.now, "state": RUNNING, "full_since": full_since}
    return store.change(record, "advance", actor, step=step, **changes)


def hold(store: RolloutStore, record: RolloutRecord, actor: Actor) -> bool:
    """Stay at this step until a person resumes or advances; guardrails still roll it back."""
    if record.state != RUNNING:
        problem = f"{record.name} is {record.state}; only a running rollout can hold"
        raise InvalidTransitionError(problem)
    return store.change(record, "hold", actor, state=HELD)


def resume(store: RolloutStore, record: RolloutRecord, actor: Actor) -> bool:
    """Continue, with a new sample-ratio check; after a rollback with the first step and no jobs."""
    if record.state == RUNNING:
        raise InvalidTransitionError(f"{record.name} is already running")
    if record.state == HELD:
        return store.change(record, "resume", actor, state=RUNNING)
    restart = {"step": 0, "step_started_at": actor.now, "evidence_from": actor.now}
    return store.change(record, "resume", actor, state=RUNNING, full_since=None, **restart)


def roll_back(store: RolloutStore, record: RolloutRecord, actor: Actor) -> bool:
    """Stop serving the candidate."""
    if record.state == ROLLED_BACK:
        raise InvalidTransitionError(f"{record.name} was already rolled back ({record.reason})")
    return store.change(record, "roll back", actor, state=ROLLED_BACK)


def apply_action(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, action: str, actor: Actor
) -> bool:
    """Apply one of ACTIONS; return False if the record is not the newest.

    Raises InvalidTransitionError if the action is unknown or not allowed.
    """
    if action == "advance":
        return advance(store, config, record, actor)
    functions = {"hold": hold, "resume": resume, "rollback": roll_back}
    if action not in functions:
        raise InvalidTransitionError(describe_unknown_action(action))
    return functions[action](store, record, actor)


def describe_unknown_action(action: str) -> str:
    return f"unknown action {action[:40]!r}; expected {', '.join(ACTIONS)}"


def apply_manual_action(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, action: str, actor: Actor
) -> RolloutRecord:
    """Apply a person's action from the page, the API or the command; return the changed rollout.

    Raises InvalidTransitionError if it is not allowed, the record is not the newest or its version
    is not the active one, and MissingReasonError if it contradicts the verdict or ends the rollout
    and no reason is given.
    """
    active = store.split_newest(record.advisor)[0][0]
    if active.id != record.id and action != "rollback":
        raise InvalidTransitionError(
            f"{record.name} is not active, {active.name} is; pull {record.name} to serve it again"
        )
    reason = clean_line(actor.reason, MAX_REASON_CHARS)
    who = clean_line(actor.who, MAX_NAME_CHARS) or "unknown"
    if not reason:
        _require_reason(store, config, record, action, actor.now)
    is_done = apply_action(store, config, record, action, replace(actor, who=who, reason=reason))
    updated = store.get(record.id)
    if not is_done or updated is None:
        raise InvalidTransitionError(f"{record.name} was changed in the meantime; check it again")
    return updated


def clean_line(text: str, max_length: int) -> str:
    """Return a person's text as one line of printable characters."""
    line = " ".join(text[: 4 * max_length].split())
    return "".join(char for char in line if char.isprintable())[:max_length]


def _require_reason(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, action: str, now: float
) -> None:
    if action == "rollback":
        raise MissingReasonError(f"give a reason to roll back {record.name}")
    if action != "advance":
        return
    verdict = current_verdict(store, config, record, now)
    # The error for a rollout that was rolled back comes from advance().
    if verdict.status not in (RolloutStatus.READY, RolloutStatus.ROLLED_BACK):
        raise MissingReasonError(
            f"{record.name} is {verdict.status}, not ready ({verdict.reason}); give a reason to "
            "advance it"
        )
