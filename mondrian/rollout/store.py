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
class Entry:
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
class Decision:
    """One line of the log: who (the service or a person) did what, and why."""

    rollout: str
    who: str
    action: str
    state: str
    why: str
    step: int
    at: float


class Rollouts:
    """The roll-outs of a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reader = engine.execution_options(reads=True)

    def get(self, id: str) -> Entry | None:
        """A roll-out by its id, <advisor>/<version>."""
        return next(iter(self._entries(rollouts.c.id == id)), None)

    def all(self) -> list[Entry]:
        """Every one, the newest first."""
        return self._entries()

    def begin(
        self, advisor: str, version: str, name: str, folder: str, control: str, full: bool = False
    ) -> Entry:
        """The roll-out of a version, begun at the first step where it is new.

        control  previous or base, as in rollout.yaml
        full     whether its first step is of everybody
        """
        id = f"{advisor}/{version}"
        found = self.get(id)
        if found:
            return found
        before = self._before(advisor, version) if control == "previous" else None
        now = time.time()
        entry = Entry(
            id, advisor, version, name, folder,
            before.name if before else "base", before.version if before else "",
            before.folder if before else "", RUNNING, "", 0, 0, now, now, now,
            now if full else None,
        )  # fmt: skip
        began = Decision(id, "service", "begin", RUNNING, f"new version {name}", 0, now)
        try:
            with self.engine.begin() as connection:
                connection.execute(rollouts.insert(), asdict(entry))
                connection.execute(decisions.insert(), asdict(began))
        except IntegrityError:  # another service was quicker
            return self.get(id) or entry
        return entry

    def change(self, entry: Entry, who: str, action: str, why: str, **values: Any) -> bool:
        """Change a roll-out and log it; False where somebody was quicker, and nothing is done."""
        new = {"why": why, "revision": entry.revision + 1, **values}
        told = Decision(
            entry.id, who, action, new.get("state", entry.state), why,
            new.get("step", entry.step), time.time(),
        )  # fmt: skip
        seen = (rollouts.c.id == entry.id) & (rollouts.c.revision == entry.revision)
        with self.engine.begin() as connection:
            if connection.execute(rollouts.update().where(seen), new).rowcount != 1:
                return False
            connection.execute(decisions.insert(), asdict(told))
        return True

    def log(self, id: str, limit: int = 200) -> list[Decision]:
        """What was decided, the newest first."""
        chosen = [decisions.c[one.name] for one in fields(Decision)]
        query = select(*chosen).where(decisions.c.rollout == id)
        with self.reader.begin() as connection:
            rows = connection.execute(query.order_by(decisions.c.number.desc()).limit(limit))
            return [Decision(**row) for row in rows.mappings()]

    def _before(self, advisor: str, version: str) -> Entry | None:
        """What came to answer everybody last, and was not rolled back."""
        served = (
            (rollouts.c.advisor == advisor) & (rollouts.c.version != version)
            & rollouts.c.full_since.is_not(None) & (rollouts.c.state != BACK)
        )  # fmt: skip
        found = self._entries(served)
        return max(found, key=lambda one: one.full_since or 0, default=None)

    def _entries(self, *where: Any) -> list[Entry]:
        query = select(rollouts).where(*where)
        query = query.order_by(func.coalesce(rollouts.c.began, 0).desc(), rollouts.c.id)
        with self.reader.begin() as connection:
            return [_entry(dict(row)) for row in connection.execute(query).mappings()]


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**{one.name: row[one.name] for one in fields(Entry)})
