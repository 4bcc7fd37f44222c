"""What the activation of a version by `mondrian pull` or `mondrian rollback` does to rollouts."""

from mondrian.rollout.actions import roll_back
from mondrian.rollout.formatting import format_state
from mondrian.rollout.lookup import open_rollout_store
from mondrian.rollout.store import ROLLED_BACK, Actor, RolloutRecord, RolloutStore


def rollback_reason(name: str) -> str:
    """Return the reason in the log of a rollout that `mondrian rollback` ended."""
    return f"mondrian rollback to {name}"


def follow_activation(store: RolloutStore, active: str, taken_back: str, actor: Actor) -> None:
    """List the rollout of the active version first; end that of a version that was taken back.

    Both are ids; such a rollout may not exist.
    """
    while (record := store.get(taken_back)) and record.state != ROLLED_BACK:
        roll_back(store, record, actor)  # again if a service changes it meanwhile
    while (record := store.get(active)) and store.split_newest(record.advisor)[0][0].id != active:
        store.activate(record, actor)


def activate_by_name(
    db: str, active: str, taken_back: str, actor: Actor
) -> tuple[RolloutRecord | None, RolloutRecord | None]:
    """Follow an activation in an existing database; return both rollouts, None if there is none.

    active, taken_back  names of versions, such as ansel@v2.0.0

    Raises DataError, and NoRolloutsError if the database does not exist or has no rollouts.
    """
    with open_rollout_store(db) as store:
        ids = {record.name: record.id for record in reversed(store.list_rollouts())}
        active_id, taken_back_id = ids.get(active, ""), ids.get(taken_back, "")
        follow_activation(store, active_id, taken_back_id, actor)
        return store.get(active_id), store.get(taken_back_id)


def describe_activated(record: RolloutRecord) -> str:
    """Return in a sentence what the rollout of an active version lets it answer."""
    if record.state == ROLLED_BACK:
        return (
            f"its rollout was rolled back ({record.reason}), so it answers no client; to start it "
            f"again: mondrian rollout {record.advisor} --resume"
        )
    return f"its rollout continues: {format_state(record)}"
