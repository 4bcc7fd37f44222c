"""Roll-outs in the database: one for each version of an advisor's adapter, and every decision.

A change is made by whoever saw the newest state (its revision), in one transaction with its entry
in the log: of several services that come to the same decision one makes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from mondrian.storage.tables import decisions, rollouts

RUNNING, HELD, BACK = "running", "held", "rolled back"


@dataclass(frozen=True)
class RolloutRecord:
    """How the roll-out of a version stands.

    version         by its bytes, as jobs.adapter_version
    name            of its folder, for people
    control         name of what answers the other clients; `base` where that is the base
    state           running, held by a person, or rolled back
    step            from 0
    began, step_began, evidence_from, full_since
                    seconds since 1970; jobs before evidence_from do not count; full_since is when
                    it came to answer everybody, None before
    """

    id: str
    advisor: str
    version: str
    name: str
    folder: str
    control: str
    control_version: str
    control_folder: str
    state: str
    why: str
    step: int
    revision: int
    began: float
    step_began: float
    evidence_from: float
    full_since: float | None


@dataclass(frozen=True)
class RolloutDecision:
    """One line of the log: who (the service or a person) did what, and why."""

    rollout: str
    who: str
    action: str
    state: str
    why: str
    step: int
    at: float


class RolloutStore:
    """The roll-outs of a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reader = engine.execution_options(reads=True)

    def get(self, id: str) -> RolloutRecord | None:
        """A roll-out by its id, <advisor>/<version>."""
        return next(iter(self._select_records(rollouts.c.id == id)), None)

    def list_rollouts(self) -> list[RolloutRecord]:
        """Every one, the newest first."""
        return self._select_records()

    def begin(
        self, advisor: str, version: str, name: str, folder: str, control: str, full: bool = False
    ) -> RolloutRecord:
        """The roll-out of a version, begun at the first step where it is new.

        control  previous or base, as in rollout.yaml
        full     whether its first step is of everybody
        """
        id = f"{advisor}/{version}"
        existing = self.get(id)
        if existing:
            return existing
        before = self._find_previous(advisor, version) if control == "previous" else None
        now = time.time()
        entry = RolloutRecord(
            id,
            advisor,
            version,
            name,
            folder,
            before.name if before else "base",
            before.version if before else "",
            before.folder if before else "",
            RUNNING,
            "",
            0,
            0,
            now,
            now,
            now,
            now if full else None,
        )
        began = RolloutDecision(id, "service", "begin", RUNNING, f"new version {name}", 0, now)
        try:
            with self.engine.begin() as connection:
                connection.execute(rollouts.insert(), asdict(entry))
                connection.execute(decisions.insert(), asdict(began))
        except IntegrityError:  # another service was quicker
            return self.get(id) or entry
        return entry

    def change(self, entry: RolloutRecord, who: str, action: str, why: str, **values: Any) -> bool:
        """Change a roll-out and log it; False where somebody was quicker, and nothing is done."""
        new = {"why": why, "revision": entry.revision + 1, **values}
        decision = RolloutDecision(
            entry.id,
            who,
            action,
            new.get("state", entry.state),
            why,
            new.get("step", entry.step),
            time.time(),
        )
        condition = (rollouts.c.id == entry.id) & (rollouts.c.revision == entry.revision)
        with self.engine.begin() as connection:
            if connection.execute(rollouts.update().where(condition), new).rowcount != 1:
                return False
            connection.execute(decisions.insert(), asdict(decision))
        return True

    def list_decisions(self, id: str, limit: int = 200) -> list[RolloutDecision]:
        """What was decided, the newest first."""
        chosen = [decisions.c[field.name] for field in fields(RolloutDecision)]
        query = select(*chosen).where(decisions.c.rollout == id)
        with self.reader.begin() as connection:
            rows = connection.execute(query.order_by(decisions.c.number.desc()).limit(limit))
            return [RolloutDecision(**row) for row in rows.mappings()]

    def _find_previous(self, advisor: str, version: str) -> RolloutRecord | None:
        """What came to answer everybody last, and was not rolled back."""
        served = (
            (rollouts.c.advisor == advisor)
            & (rollouts.c.version != version)
            & rollouts.c.full_since.is_not(None)
            & (rollouts.c.state != BACK)
        )
        entries = self._select_records(served)
        return max(entries, key=lambda entry: entry.full_since or 0, default=None)

    def _select_records(self, *conditions: Any) -> list[RolloutRecord]:
        query = select(rollouts).where(*conditions)
        query = query.order_by(func.coalesce(rollouts.c.began, 0).desc(), rollouts.c.id)
        with self.reader.begin() as connection:
            return [_build_record(dict(row)) for row in connection.execute(query).mappings()]


def _build_record(row: Mapping[str, Any]) -> RolloutRecord:
    return RolloutRecord(**{field.name: row[field.name] for field in fields(RolloutRecord)})
