"""What a person does with a roll-out, by page, API or command: one set of rules for all three."""

from __future__ import annotations

from mondrian.rollout.actions import InvalidTransition, apply_action, current_verdict
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import RolloutStatus
from mondrian.rollout.store import RolloutRecord, RolloutStore

REASON, NAME = 1000, 200  # characters of a reason and of a person's name


class MissingReason(InvalidTransition):
    """It can be done, and wants to be explained."""


def apply_manual_action(
    rollouts: RolloutStore,
    settings: RolloutConfig,
    entry: RolloutRecord,
    action: str,
    who: str,
    why: str,
    now: float,
) -> RolloutRecord:
    """Do one of ACTIONS; the roll-out as it is then.

    Raises NotNow where it cannot be done, also where somebody was quicker, and NoReason where it
    goes against the numbers, or ends the roll-out, and nobody says why.
    """
    why, who = clean_line(why, REASON), clean_line(who, NAME) or "somebody"
    if not why:
        _check_reason(rollouts, settings, entry, action, now)
    done = apply_action(rollouts, settings, entry, action, who, why)
    updated_entry = rollouts.get(entry.id)
    if not done or updated_entry is None:
        raise InvalidTransition(f"{entry.name} was changed meanwhile; look at it again")
    return updated_entry


def clean_line(text: str, max_length: int) -> str:
    """One line of what a person wrote, without what no line holds."""
    single_line = " ".join(text[: 4 * max_length].split())
    return "".join(char for char in single_line if char.isprintable())[:max_length]


def _check_reason(
    rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord, action: str, now: float
) -> None:
    if action == "rollback":
        raise MissingReason(f"say why {entry.name} is rolled back")
    if action != "advance":
        return
    verdict = current_verdict(rollouts, settings, entry, now)
    if verdict.status not in (
        RolloutStatus.READY,
        RolloutStatus.ROLLED_BACK,
    ):  # act says what of the latter
        raise MissingReason(
            f"{entry.name} is not ready but {verdict.status} ({verdict.why}); say why it advances"
        )
