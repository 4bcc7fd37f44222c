"""What a person does with a roll-out, by page, API or command: one set of rules for all three."""

from __future__ import annotations

from mondrian.rollout.actions import NotNow, act, verdict_now
from mondrian.rollout.config import Rollout
from mondrian.rollout.decision import Status
from mondrian.rollout.store import Entry, Rollouts

REASON, NAME = 1000, 200  # characters of a reason and of a person's name


class NoReason(NotNow):
    """It can be done, and wants to be explained."""


def by_hand(
    rollouts: Rollouts, settings: Rollout, entry: Entry, action: str, who: str, why: str, now: float
) -> Entry:
    """Do one of ACTIONS; the roll-out as it is then.

    Raises NotNow where it cannot be done, also where somebody was quicker, and NoReason where it
    goes against the numbers, or ends the roll-out, and nobody says why.
    """
    why, who = line(why, REASON), line(who, NAME) or "somebody"
    if not why:
        _check_reason(rollouts, settings, entry, action, now)
    done = act(rollouts, settings, entry, action, who, why)
    found = rollouts.get(entry.id)
    if not done or found is None:
        raise NotNow(f"{entry.name} was changed meanwhile; look at it again")
    return found


def line(text: str, most: int) -> str:
    """One line of what a person wrote, without what no line holds."""
    told = " ".join(text[: 4 * most].split())
    return "".join(one for one in told if one.isprintable())[:most]


def _check_reason(
    rollouts: Rollouts, settings: Rollout, entry: Entry, action: str, now: float
) -> None:
    if action == "rollback":
        raise NoReason(f"say why {entry.name} is rolled back")
    if action != "advance":
        return
    verdict = verdict_now(rollouts, settings, entry, now)
    if verdict.status not in (Status.READY, Status.ROLLED_BACK):  # act says what of the latter
        raise NoReason(
            f"{entry.name} is not ready but {verdict.status} ({verdict.why}); say why it advances"
        )
