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

from mondrian.storage.feedback import delete_feedback, withdraw_feedback
from mondrian.storage.tables import jobs, migrate

JobRow = dict[str, Any]
NO_ROLLOUT_VALUES = dict.fromkeys(("rollout", "side", "share", "step"))  # in a roll-out
CLIENT_DISCONNECTED = "the client went away"  # of a request that nobody waited for any more
ACTIVE_STATUSES = ("queued", "analyzing")
COMPLETED_STATUSES = ("completed", "done")  # done and error are of today's application before 2026
FINISHED_STATUSES = (*COMPLETED_STATUSES, "failed", "error")
_QUEUED_VALUES: JobRow = {
    "status": "queued",
    "owner": None,
    "leased_until": None,
    "current_step": "Queued",
}


@dataclass(frozen=True)
class LeasePolicy:
    """lease_seconds and tries as in params.yaml."""

    lease_seconds: float
    tries: int


def utc_timestamp() -> str:
    """The time as the table keeps it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class JobStore:
    """Jobs of a database, as one service sees them. `owner` is that service, in this start."""

    def __init__(self, engine: Engine, rules: LeasePolicy) -> None:
        self.engine, self.rules = engine, rules
        self.reader = engine.execution_options(reads=True)  # the same connections
        self.owner = (
            f"{_machine()}:{os.getpid()}:{_process_start_time(os.getpid())}:{uuid4().hex[:8]}"
        )
        self.changes = migrate(engine)

    def add(self, row: Mapping[str, Any]) -> tuple[JobRow, bool]:
        """Put a job in; the job, and whether it is new: a known idempotency key gives the old one.

        A row that is `analyzing` from the start is leased to this service.
        """
        full: JobRow = {
            "created_at": utc_timestamp(),
            "queued_at": time.time(),
            "retry_count": 0,
            "crashes": 0,
            "strikes": 0,
            "progress_percentage": 0,
            "current_step": "Queued",
            **row,
        }
        if full["status"] == "analyzing":
            full |= {"started_at": utc_timestamp(), **self._lease()}
        try:
            with self.engine.begin() as connection:
                connection.execute(jobs.insert(), full)
                added = select(jobs).where(jobs.c.id == full["id"])
                return dict(connection.execute(added).mappings().one()), True
        except IntegrityError:
            key = full.get("idempotency_key")
            if key is None:
                raise
            job = self._select_first(jobs.c.idempotency_key == key)
            if job is None:
                raise
            return job, False

    def get(self, id: str) -> JobRow | None:
        """A job, whoever's it is."""
        return self._select_first(jobs.c.id == id)

    def list_newest(self, limit: int, kinds: tuple[str, ...] | None = None) -> list[JobRow]:
        """The newest jobs, those of other programs only where no kinds are named; no shadows."""
        query = select(jobs).order_by(func.coalesce(jobs.c.queued_at, 0).desc(), jobs.c.id)
        chosen = jobs.c.kind.in_(kinds) if kinds else func.coalesce(jobs.c.kind, "") != "shadow"
        query = query.where(chosen)
        with self.reader.begin() as connection:
            return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]

    def get_paired(self, id: str, kind: str = "upload") -> JobRow | None:
        """The job of the other arm for the same photograph; a shadow is not for who asked."""
        return self._select_first(jobs.c.pair_of == id, jobs.c.kind == kind)

    def count_queued(self) -> int:
        """Jobs that nobody has begun."""
        query = select(func.count()).where(jobs.c.status == "queued", jobs.c.kind.is_not(None))
        with self.reader.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def claim(self) -> JobRow | None:
        """Take the job that waited longest; None where there is none. Shadows come last."""
        own = and_(jobs.c.status == "queued", jobs.c.kind.in_(("upload", "shadow")))
        chosen = (
            select(jobs.c.id)
            .where(own)
            .order_by(case((jobs.c.kind == "shadow", 1), else_=0), jobs.c.queued_at, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self.engine.begin() as connection:
            id = connection.execute(chosen).scalar()
            if id is None:
                return None
            begun = {"status": "analyzing", "started_at": utc_timestamp(), **self._lease()}
            connection.execute(jobs.update().where(jobs.c.id == id), begun)
            return dict(connection.execute(select(jobs).where(jobs.c.id == id)).mappings().one())

    def renew_leases(self, ids: Sequence[str], notes: Mapping[str, JobRow]) -> None:
        """Renew the leases of what is under way here, and note how far each is."""
        with self.engine.begin() as connection:
            renewed = jobs.update().where(self._owned_condition(), jobs.c.id.in_(ids))
            connection.execute(renewed, self._lease())
            for id, note in notes.items():
                connection.execute(
                    jobs.update().where(jobs.c.id == id, self._owned_condition()), note
                )

    def update_owned(self, id: str, **values: Any) -> bool:
        """Change a job that is under way here; False where it is no longer ours."""
        with self.engine.begin() as connection:
            done = connection.execute(
                jobs.update().where(jobs.c.id == id, self._owned_condition()), values
            )
        return done.rowcount == 1

    def finish(self, id: str, **values: Any) -> bool:
        """Completed; False where it is no longer ours, and nothing is changed then."""
        return self.update_owned(
            id,
            status="completed",
            progress_percentage=100,
            current_step="Analysis complete",
            completed_at=utc_timestamp(),
            owner=None,
            leased_until=None,
            llm_thinking="",
            error=None,
            **values,
        )

    def fail(self, id: str, message: str) -> bool:
        """Failed for good; who asks again with the same key is answered anew."""
        return self.update_owned(id, **_failure_values(message), idempotency_key=None)

    def return_to_queue(self, id: str) -> bool:
        """Queued as if it had not been begun."""
        return self.update_owned(id, **_QUEUED_VALUES)

    def retry_or_fail(self, row: JobRow, message: str, crashed: bool) -> str:
        """Back to the end of the queue, or failed where it was tried often enough: which of them.

        crashed  the model died under it; alone, that counts against it
        """
        values = self._retry_values(row, message, crashed)
        return str(values["status"]) if self.update_owned(row["id"], **values) else ""

    def return_all_to_queue(self) -> int:
        """Give back what is under way here, as nothing had been begun."""
        query = jobs.update().where(self._owned_condition(), jobs.c.kind != "direct")
        with self.engine.begin() as connection:
            return int(connection.execute(query, _QUEUED_VALUES).rowcount)

    def reclaim_abandoned(self) -> list[str]:
        """Take over the jobs of services that died; ids of those that were."""
        swept = []
        with self.engine.begin() as connection:
            query = select(jobs).where(jobs.c.status == "analyzing", jobs.c.kind.is_not(None))
            rows = connection.execute(query.with_for_update(skip_locked=True)).mappings().all()
            for row in rows:
                if not self._is_abandoned(row["owner"] or "", row["leased_until"]):
                    continue
                message = "the service that was at work on it stopped"
                values = (
                    _failure_values(f"{message}; ask again") | {"idempotency_key": None}
                    if row["kind"] == "direct"
                    else self._retry_values(dict(row), message, True)
                )
                connection.execute(jobs.update().where(jobs.c.id == row["id"]), values)
                swept.append(row["id"])
        return swept

    def update_job(
        self, id: str, condition: ColumnElement[bool] | None = None, **values: Any
    ) -> bool:
        """Change a job from outside: by a person, or by a client."""
        query = jobs.update().where(jobs.c.id == id, *([] if condition is None else [condition]))
        with self.engine.begin() as connection:
            return bool(connection.execute(query, values).rowcount == 1)

    def requeue(self, id: str) -> bool:
        """A finished job once more from the beginning; what was said of its text is withdrawn."""
        again = jobs.update().where(
            jobs.c.id == id,
            jobs.c.status.in_(("failed", "completed", "pending")),
            jobs.c.kind.in_(("upload", "shadow")),
        )
        values = {
            "status": "queued",
            "current_step": "Queued",
            "progress_percentage": 0,
            "error": None,
            "queued_at": time.time(),
            "retry_count": 0,
            "crashes": 0,
            "strikes": 0,
            "completed_at": None,
            "thumbs": None,
            "note": None,
        }
        with self.engine.begin() as connection:
            begun = connection.execute(again, values).rowcount == 1
            if begun:
                withdraw_feedback(connection, id)
        return begun

    def cancel(self, id: str) -> bool:
        """A job that nobody has begun will not be."""
        return self.update_job(
            id,
            jobs.c.status.in_(("pending", "queued")) & jobs.c.kind.is_not(None),
            **_failure_values("given up by a client"),
        )

    def find_by_photo(self, filename: str) -> JobRow | None:
        """A job of this service whose photograph goes by that name."""
        return self._select_first(jobs.c.filename == filename, jobs.c.kind.is_not(None))

    def delete_inactive(self) -> list[str]:
        """Forget all jobs that are ours and not under way, and what was said; their photographs."""
        ours = and_(jobs.c.kind.is_not(None), jobs.c.status != "analyzing")
        with self.engine.begin() as connection:
            query = select(jobs.c.filename).where(ours).distinct()
            names = [str(name) for name in connection.execute(query).scalars()]
            delete_feedback(connection, select(jobs.c.id).where(ours))
            connection.execute(jobs.delete().where(ours))
            query = select(jobs.c.filename).where(jobs.c.filename.in_(names))
            used_names = set(connection.execute(query).scalars())
        return [name for name in names if name not in used_names]

    def _select_first(self, *conditions: ColumnElement[bool]) -> JobRow | None:
        with self.reader.begin() as connection:
            query = select(jobs).where(*conditions).limit(1)
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    def _lease(self) -> JobRow:
        return {"owner": self.owner, "leased_until": time.time() + self.rules.lease_seconds}

    def _owned_condition(self) -> ColumnElement[bool]:
        return and_(jobs.c.owner == self.owner, jobs.c.status == "analyzing")

    def _is_abandoned(self, owner: str, until: float | None) -> bool:
        """Whether a lease is over: by the clock, by a clock set back, or as its process is gone."""
        now = time.time()
        if until is None or until < now or until > now + 2 * self.rules.lease_seconds:
            return True
        machine, pid, born, _ = owner.rsplit(":", 3)
        return machine == _machine() and _process_start_time(int(pid)) != born

    def _retry_values(self, row: JobRow, message: str, crashed: bool) -> JobRow:
        crashes, strikes = row["crashes"] or 0, row["strikes"] or 0
        tried = (row["retry_count"] or 0) + (not crashed)
        strikes += crashed and crashes > 0
        if max(tried, strikes) >= self.rules.tries:
            return _failure_values(message) | {"retry_count": tried, "strikes": strikes}
        return {
            **_QUEUED_VALUES,
            "error": message,
            "queued_at": time.time(),
            "retry_count": tried,
            "crashes": crashes + crashed,
            "strikes": strikes,
        }


@cache
def _machine() -> str:
    """What process ids count on: a boot of a machine, and a container of it."""
    parts = [socket.gethostname()]
    if Path("/proc/self/ns/pid").exists():
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]]
        parts += [str(os.stat("/proc/self/ns/pid").st_ino)]
    return "/".join(parts)


def _process_start_time(pid: int) -> str:
    """When a process began, by no clock that can be set; empty where there is none."""
    try:
        if Path("/proc/self/stat").exists():  # proc(5): starttime is the 22nd field
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.NoSuchProcess):
        return ""


def _failure_values(message: str) -> JobRow:
    return {
        "status": "failed",
        "error": message,
        "current_step": "Failed",
        "completed_at": utc_timestamp(),
        "owner": None,
        "leased_until": None,
    }
