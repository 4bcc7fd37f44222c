"""Rollouts in the database: one per version of an advisor's adapter, and a log of every decision.

A change needs the newest state (its revision) and is made in one transaction with its log entry:
if several services reach the same decision, one of them makes it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sqlalchemy import Engine, Label, Table, func, select
from sqlalchemy.exc import IntegrityError

from mondrian.storage.tables import decisions, rollouts

RUNNING, HELD, ROLLED_BACK = "running", "held", "rolled back"
REPLACED = "replaced"  # a state that is not stored: another version of the advisor is active
_ACTIVATE = "activate"  # action of a log entry: the version is active again
_COLUMN_BY_FIELD = {
    "reason": "why",
    "started_at": "began",
    "step_started_at": "step_began",
    "decided_at": "at",
}


@dataclass(frozen=True)
class Candidate:
    """A new version of an advisor's adapter.

    version  hash of its files, as in jobs.adapter_version
    name     of its folder, for display
    """

    advisor: str
    version: str
    name: str
    folder: str

    @property
    def id(self) -> str:
        return f"{self.advisor}/{self.version}"  # of its rollout


@dataclass(frozen=True)
class Actor:
    """Who changes a rollout (the service or a person), why, and when (seconds since 1970)."""

    who: str
    reason: str
    now: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RolloutRecord:
    """The state of a rollout.

    version, name  of the candidate
    control        name of the adapter that answers the other clients; `base` for the base
    state          running, held by a person, or rolled back; in lists also replaced
    reason         of the newest decision on the state
    step           from 0
    started_at, step_started_at, evidence_from, full_since
                   seconds since 1970; jobs before evidence_from do not count; full_since is when
                   the candidate first answered all clients, None before
    """

    id: str
    advisor: str
    version: str
    name: str
    folder: str
    started_at: float
    step_started_at: float
    evidence_from: float
    full_since: float | None = None
    control: str = "base"
    control_version: str = ""
    control_folder: str = ""
    state: str = RUNNING
    reason: str = ""
    step: int = 0
    revision: int = 0


@dataclass(frozen=True)
class RolloutDecision:
    rollout: str
    who: str
    action: str
    state: str
    reason: str
    step: int
    decided_at: float


class RolloutStore:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reader = engine.execution_options(reads=True)

    def get(self, id: str) -> RolloutRecord | None:
        return next(iter(self._select_records(rollouts.c.id == id)), None)

    def list_rollouts(self) -> list[RolloutRecord]:
        """Return all rollouts, that of the version that was activated last first.

        The state of an advisor's others is replaced, unless they were rolled back.
        """
        listed: list[RolloutRecord] = []
        for record in self._select_records():
            is_first = all(record.advisor != other.advisor for other in listed)
            is_replaced = not is_first and record.state != ROLLED_BACK
            listed.append(replace(record, state=REPLACED) if is_replaced else record)
        return listed

    def split_newest(self, advisor: str = "") -> tuple[list[RolloutRecord], list[RolloutRecord]]:
        """Return (the rollout of each advisor's active version, or of one's; the others)."""
        newest: dict[str, RolloutRecord] = {}
        older = []
        for record in self.list_rollouts():
            if advisor not in ("", record.advisor):
                continue
            if newest.setdefault(record.advisor, record) is not record:
                older.append(record)
        return list(newest.values()), older

    def get_or_start(
        self, candidate: Candidate, baseline: str, is_full: bool = False
    ) -> RolloutRecord:
        """Return the rollout of a version; start it at the first step if it is new.

        baseline  previous or base, as in rollout.yaml
        is_full   whether the first step serves all clients
        """
        if existing := self.get(candidate.id):
            return existing
        previous = self._find_previous(candidate) if baseline == "previous" else None
        now = time.time()
        record = RolloutRecord(
            candidate.id, **vars(candidate), started_at=now, step_started_at=now, evidence_from=now
        )
        if is_full:
            record = replace(record, full_since=now)
        if previous:
            name, version, folder = previous.name, previous.version, previous.folder
            record = replace(record, control=name, control_version=version, control_folder=folder)
        reason = f"new version {candidate.name}"
        start = RolloutDecision(record.id, "service", "begin", RUNNING, reason, 0, now)
        try:
            with self.engine.begin() as connection:
                connection.execute(rollouts.insert(), _to_columns(asdict(record)))
                connection.execute(decisions.insert(), _to_columns(asdict(start)))
        except IntegrityError:  # another service was faster
            return self.get(record.id) or record
        return record

    def activate(self, record: RolloutRecord, actor: Actor) -> bool:
        """List a rollout first, because its version is active again; its step starts again."""
        values = {"reason": record.reason, "step_started_at": actor.now}
        return self.change(record, _ACTIVATE, actor, **values)

    def activated_at(self, record: RolloutRecord) -> float:
        """Return when the version of a rollout was activated last, in seconds since 1970."""
        last = self.last_action_at(record.id, _ACTIVATE)
        return record.started_at if last is None else last

    def last_action_at(self, id: str, action: str) -> float | None:
        """Return when an action on a rollout was logged last, in seconds since 1970."""
        is_action = (decisions.c.rollout == id) & (decisions.c.action == action)
        with self.reader.begin() as connection:
            last = connection.execute(select(func.max(decisions.c.at)).where(is_action)).scalar()
        return None if last is None else float(last)

    def change(self, record: RolloutRecord, action: str, actor: Actor, **values: Any) -> bool:
        """Change a rollout and log it; return False, with no change, if it is not the newest."""
        new, who, reason = replace(record, **values), actor.who, actor.reason
        decision = RolloutDecision(record.id, who, action, new.state, reason, new.step, actor.now)
        values = {"reason": reason, **values, "revision": record.revision + 1}
        is_newest = (rollouts.c.id == record.id) & (rollouts.c.revision == record.revision)
        with self.engine.begin() as connection:
            update = rollouts.update().where(is_newest)
            if connection.execute(update, _to_columns(values)).rowcount != 1:
                return False
            connection.execute(decisions.insert(), _to_columns(asdict(decision)))
        return True

    def list_decisions(self, id: str, max_rows: int = 200) -> list[RolloutDecision]:
        """Return the log of a rollout, newest first."""
        query = select(*_columns(decisions, RolloutDecision)).where(decisions.c.rollout == id)
        with self.reader.begin() as connection:
            rows = connection.execute(query.order_by(decisions.c.number.desc()).limit(max_rows))
            return [RolloutDecision(**row) for row in rows.mappings()]

    def _find_previous(self, candidate: Candidate) -> RolloutRecord | None:
        """Return the last version that answered all clients and was not rolled back."""
        records = self._select_records(
            rollouts.c.advisor == candidate.advisor,
            rollouts.c.version != candidate.version,
            rollouts.c.full_since.is_not(None),
            rollouts.c.state != ROLLED_BACK,
        )
        return max(records, key=lambda record: record.full_since or 0, default=None)

    def _select_records(self, *conditions: Any) -> list[RolloutRecord]:
        activated_at = (
            select(func.max(decisions.c.at))
            .where(decisions.c.rollout == rollouts.c.id, decisions.c.action == _ACTIVATE)
            .scalar_subquery()
        )
        query = select(*_columns(rollouts, RolloutRecord)).where(*conditions)
        order = func.coalesce(activated_at, rollouts.c.began, 0).desc()
        query = query.order_by(order, rollouts.c.id)
        with self.reader.begin() as connection:
            return [RolloutRecord(**row) for row in connection.execute(query).mappings()]


def _columns(table: Table, record_type: type) -> list[Label[Any]]:
    """Return the columns of a record, labeled with the names of its fields."""
    names = [item.name for item in fields(record_type)]
    return [table.c[_COLUMN_BY_FIELD.get(name, name)].label(name) for name in names]


def _to_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_COLUMN_BY_FIELD.get(name, name): value for name, value in values.items()}
