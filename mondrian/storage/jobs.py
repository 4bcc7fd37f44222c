"""Jobs in the database: every change of one is a single transaction, and most carry their owner.

A job is queued, then analyzing under a lease that its service renews, then completed or failed.
Whoever finds a lease that ran out takes the job over. A job that was under way when its model or
its service died is run alone next time; one that dies alone too often has failed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from sqlalchemy import ColumnElement, Engine, and_, case, func, select
from sqlalchemy.exc import IntegrityError

from mondrian.storage.feedback import forget, withdraw
from mondrian.storage.tables import jobs, migrate

Row = dict[str, Any]
NO_PLACE = dict.fromkeys(("rollout", "side", "share", "step"))  # in a roll-out
GONE = "the client went away"  # of a request that nobody waited for any more
LIVE = ("queued", "analyzing")
DONE = ("completed", "done")  # done and error are of today's application before 2026
ENDED = (*DONE, "failed", "error")
_BACK: Row = {"status": "queued", "owner": None, "leased_until": None, "current_step": "Queued"}


@dataclass(frozen=True)
class Rules:
    """lease_seconds and tries as in params.yaml."""

    lease_seconds: float
    tries: int


def now_text() -> str:
    """The time as the table keeps it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Store:
    """Jobs of a database, as one service sees them. `owner` is that service, in this start."""

    def __init__(self, engine: Engine, rules: Rules) -> None:
        self.engine, self.rules = engine, rules
        self.reader = engine.execution_options(reads=True)  # the same connections
        self.owner = f"{_machine()}:{os.getpid()}:{_born(os.getpid())}:{uuid4().hex[:8]}"
        self.changes = migrate(engine)

    def add(self, row: Mapping[str, Any]) -> tuple[Row, bool]:
        """Put a job in; the job, and whether it is new: a known idempotency key gives the old one.

        A row that is `analyzing` from the start is leased to this service.
        """
        full: Row = {
            "created_at": now_text(), "queued_at": time.time(), "retry_count": 0, "crashes": 0,
            "strikes": 0, "progress_percentage": 0, "current_step": "Queued", **row,
        }  # fmt: skip
        if full["status"] == "analyzing":
            full |= {"started_at": now_text(), **self._lease()}
        try:
            with self.engine.begin() as connection:
                connection.execute(jobs.insert(), full)
                added = select(jobs).where(jobs.c.id == full["id"])
                return dict(connection.execute(added).mappings().one()), True
        except IntegrityError:
            key = full.get("idempotency_key")
            if key is None:
                raise
            found = self._first(jobs.c.idempotency_key == key)
            if found is None:
                raise
            return found, False

    def get(self, id: str) -> Row | None:
        """A job, whoever's it is."""
        return self._first(jobs.c.id == id)

    def listed(self, limit: int, kinds: tuple[str, ...] | None = None) -> list[Row]:
        """The newest jobs, those of other programs only where no kinds are named; no shadows."""
        query = select(jobs).order_by(func.coalesce(jobs.c.queued_at, 0).desc(), jobs.c.id)
        chosen = jobs.c.kind.in_(kinds) if kinds else func.coalesce(jobs.c.kind, "") != "shadow"
        query = query.where(chosen)
        with self.reader.begin() as connection:
            return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]

    def pair(self, id: str, kind: str = "upload") -> Row | None:
        """The job of the other arm for the same photograph; a shadow is not for who asked."""
        return self._first(jobs.c.pair_of == id, jobs.c.kind == kind)

    def waiting(self) -> int:
        """Jobs that nobody has begun."""
        query = select(func.count()).where(jobs.c.status == "queued", jobs.c.kind.is_not(None))
        with self.reader.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def claim(self) -> Row | None:
        """Take the job that waited longest; None where there is none. Shadows come last."""
        own = and_(jobs.c.status == "queued", jobs.c.kind.in_(("upload", "shadow")))
        chosen = (
            select(jobs.c.id).where(own)
            .order_by(case((jobs.c.kind == "shadow", 1), else_=0), jobs.c.queued_at, jobs.c.id)
            .limit(1).with_for_update(skip_locked=True)
        )  # fmt: skip
        with self.engine.begin() as connection:
            id = connection.execute(chosen).scalar()
            if id is None:
                return None
            begun = {"status": "analyzing", "started_at": now_text(), **self._lease()}
            connection.execute(jobs.update().where(jobs.c.id == id), begun)
            return dict(connection.execute(select(jobs).where(jobs.c.id == id)).mappings().one())

    def beat(self, ids: Sequence[str], notes: Mapping[str, Row]) -> None:
        """Renew the leases of what is under way here, and note how far each is."""
        with self.engine.begin() as connection:
            renewed = jobs.update().where(self._mine(), jobs.c.id.in_(ids))
            connection.execute(renewed, self._lease())
            for id, note in notes.items():
                connection.execute(jobs.update().where(jobs.c.id == id, self._mine()), note)

    def note(self, id: str, **values: Any) -> bool:
        """Change a job that is under way here; False where it is no longer ours."""
        with self.engine.begin() as connection:
            done = connection.execute(jobs.update().where(jobs.c.id == id, self._mine()), values)
        return done.rowcount == 1

    def finish(self, id: str, **values: Any) -> bool:
        """Completed; False where it is no longer ours, and nothing is changed then."""
        return self.note(
            id, status="completed", progress_percentage=100, current_step="Analysis complete",
            completed_at=now_text(), owner=None, leased_until=None, llm_thinking="", error=None,
            **values,
        )  # fmt: skip

    def fail(self, id: str, told: str) -> bool:
        """Failed for good; who asks again with the same key is answered anew."""
        return self.note(id, **_failed(told), idempotency_key=None)

    def give_back(self, id: str) -> bool:
        """Queued as if it had not been begun."""
        return self.note(id, **_BACK)

    def again(self, row: Row, told: str, crashed: bool) -> str:
        """Back to the end of the queue, or failed where it was tried often enough: which of them.

        crashed  the model died under it; alone, that counts against it
        """
        values = self._retried(row, told, crashed)
        return str(values["status"]) if self.note(row["id"], **values) else ""

    def release(self) -> int:
        """Give back what is under way here, as nothing had been begun."""
        query = jobs.update().where(self._mine(), jobs.c.kind != "direct")
        with self.engine.begin() as connection:
            return int(connection.execute(query, _BACK).rowcount)

    def sweep(self) -> list[str]:
        """Take over the jobs of services that died; ids of those that were."""
        swept = []
        with self.engine.begin() as connection:
            query = select(jobs).where(jobs.c.status == "analyzing", jobs.c.kind.is_not(None))
            rows = connection.execute(query.with_for_update(skip_locked=True)).mappings().all()
            for row in rows:
                if not self._abandoned(row["owner"] or "", row["leased_until"]):
                    continue
                told = "the service that was at work on it stopped"
                values = (
                    _failed(f"{told}; ask again") | {"idempotency_key": None}
                    if row["kind"] == "direct"
                    else self._retried(dict(row), told, True)
                )  # fmt: skip
                connection.execute(jobs.update().where(jobs.c.id == row["id"]), values)
                swept.append(row["id"])
        return swept

    def change(self, id: str, where: ColumnElement[bool] | None = None, **values: Any) -> bool:
        """Change a job from outside: by a person, or by a client."""
        query = jobs.update().where(jobs.c.id == id, *([] if where is None else [where]))
        with self.engine.begin() as connection:
            return bool(connection.execute(query, values).rowcount == 1)

    def requeue(self, id: str) -> bool:
        """A finished job once more from the beginning; what was said of its text is withdrawn."""
        again = jobs.update().where(
            jobs.c.id == id, jobs.c.status.in_(("failed", "completed", "pending")),
            jobs.c.kind.in_(("upload", "shadow")),
        )  # fmt: skip
        values = {
            "status": "queued", "current_step": "Queued", "progress_percentage": 0, "error": None,
            "queued_at": time.time(), "retry_count": 0, "crashes": 0, "strikes": 0,
            "completed_at": None, "thumbs": None, "note": None,
        }  # fmt: skip
        with self.engine.begin() as connection:
            begun = connection.execute(again, values).rowcount == 1
            if begun:
                withdraw(connection, id)
        return begun

    def give_up(self, id: str) -> bool:
        """A job that nobody has begun will not be."""
        return self.change(
            id, jobs.c.status.in_(("pending", "queued")) & jobs.c.kind.is_not(None),
            **_failed("given up by a client"),
        )  # fmt: skip

    def with_photo(self, filename: str) -> Row | None:
        """A job of this service whose photograph goes by that name."""
        return self._first(jobs.c.filename == filename, jobs.c.kind.is_not(None))

    def clear(self) -> list[str]:
        """Forget all jobs that are ours and not under way, and what was said; their photographs."""
        ours = and_(jobs.c.kind.is_not(None), jobs.c.status != "analyzing")
        with self.engine.begin() as connection:
            query = select(jobs.c.filename).where(ours).distinct()
            names = [str(name) for name in connection.execute(query).scalars()]
            forget(connection, select(jobs.c.id).where(ours))
            connection.execute(jobs.delete().where(ours))
            query = select(jobs.c.filename).where(jobs.c.filename.in_(names))
            kept = set(connection.execute(query).scalars())
        return [name for name in names if name not in kept]

    def _first(self, *where: ColumnElement[bool]) -> Row | None:
        with self.reader.begin() as connection:
            query = select(jobs).where(*where).limit(1)
            found = connection.execute(query).mappings().first()
        return dict(found) if found else None

    def _lease(self) -> Row:
        return {"owner": self.owner, "leased_until": time.time() + self.rules.lease_seconds}

    def _mine(self) -> ColumnElement[bool]:
        return and_(jobs.c.owner == self.owner, jobs.c.status == "analyzing")

    def _abandoned(self, owner: str, until: float | None) -> bool:
        """Whether a lease is over: by the clock, by a clock set back, or as its process is gone."""
        now = time.time()
        if until is None or until < now or until > now + 2 * self.rules.lease_seconds:
            return True
        machine, pid, born, _ = owner.rsplit(":", 3)
        return machine == _machine() and _born(int(pid)) != born

    def _retried(self, row: Row, told: str, crashed: bool) -> Row:
        crashes, strikes = row["crashes"] or 0, row["strikes"] or 0
        tried = (row["retry_count"] or 0) + (not crashed)
        strikes += crashed and crashes > 0
        if max(tried, strikes) >= self.rules.tries:
            return _failed(told) | {"retry_count": tried, "strikes": strikes}
        return {
            **_BACK, "error": told, "queued_at": time.time(), "retry_count": tried,
            "crashes": crashes + crashed, "strikes": strikes,
        }  # fmt: skip


@cache
def _machine() -> str:
    """What process ids count on: a boot of a machine, and a container of it."""
    told = [socket.gethostname()]
    if Path("/proc/self/ns/pid").exists():
        told += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]]
        told += [str(os.stat("/proc/self/ns/pid").st_ino)]
    return "/".join(told)


def _born(pid: int) -> str:
    """When a process began, by no clock that can be set; empty where there is none."""
    try:
        if Path("/proc/self/stat").exists():  # proc(5): starttime is the 22nd field
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.NoSuchProcess):
        return ""


def _failed(told: str) -> Row:
    return {
        "status": "failed", "error": told, "current_step": "Failed", "completed_at": now_text(),
        "owner": None, "leased_until": None,
    }  # fmt: skip
