"""The job queue in the database. Each change of a job is one transaction.

A job is queued, then analyzing under a lease that its service renews, then completed or failed. If
a lease expires, any service takes the job over. If the model or the service died, the job is next
run alone; if it dies alone too often, it fails.
"""

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    Update,
    and_,
    case,
    func,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.storage.engine import (
    engine_name,
    format_database_error,
    open_reader,
    retry_while_locked,
)
from mondrian.storage.feedback import delete_feedback, withdraw_feedback
from mondrian.storage.tables import jobs, migrate
from mondrian.storage.tables import utc_timestamp as utc_timestamp

JobRow = dict[str, Any]
NO_ROLLOUT_VALUES = dict.fromkeys(("rollout", "side", "share", "step"))
CLIENT_DISCONNECTED = "the client went away"  # `error` of a direct job whose client disconnected
STOPPED = "stopped by a person"  # `error` of a job that was stopped on its page
CANCELLED = "cancelled by a client"  # `error` of a queued job that a client cancelled
ENDED_BY_CLIENT = (CLIENT_DISCONNECTED, STOPPED, CANCELLED)  # no failures of the service
ACTIVE_STATUSES = ("queued", "analyzing")
COMPLETED_STATUSES = ("completed", "done")  # done and error: written by the application before 2026
FAILED_STATUSES = ("failed", "error")
TERMINAL_STATUSES = (*COMPLETED_STATUSES, *FAILED_STATUSES)
# Long texts, which a list of jobs does not need
_UNLISTED_COLUMNS = ("prompt", "llm_prompt", "analysis_html", "summary_html", "advisor_bio_html")
_NO_LEASE = {"owner": None, "leased_until": None}
_QUEUED_VALUES = {"status": "queued", "current_step": "Queued", **_NO_LEASE}


@dataclass(frozen=True)
class LeasePolicy:
    lease_seconds: float
    max_attempts: int  # attempts after which a job has failed


@dataclass(frozen=True)
class QueueRow:
    """What a page shows of a job that waits or runs."""

    status: str
    current_step: str
    progress_percentage: int
    place: int  # in the queue, from 1; 0 if it is not queued


class JobStore:
    """The jobs of a database, for one service process; `owner` identifies the process."""

    def __init__(self, engine: Engine, policy: LeasePolicy) -> None:
        self.engine, self.policy = engine, policy
        self.reader = open_reader(engine)
        pid = os.getpid()
        self.owner = f"{_machine_id()}:{pid}:{_process_start_time(pid)}:{uuid4().hex[:8]}"
        self.migrations = _migrate(engine)  # that were needed

    def close(self) -> None:
        """Close all connections."""
        self.reader.dispose()
        self.engine.dispose()

    def add(self, row: Mapping[str, Any]) -> tuple[JobRow, bool]:
        """Add a job; return it and True, or the existing job of its idempotency key and False.

        A failed job gives its key to the new one. A row with status `analyzing` is leased to this
        service at once.
        """
        key = row.get("idempotency_key")
        values = {"created_at": utc_timestamp(), **_initial_values(), **row}
        if values["status"] == "analyzing":
            values |= {"started_at": utc_timestamp(), **self._lease_values()}
        try:
            with self.engine.begin() as connection:
                if key:
                    connection.execute(_free_failed_key(key))
                connection.execute(jobs.insert(), values)
                added = select(jobs).where(jobs.c.id == values["id"])
                return dict(connection.execute(added).mappings().one()), True
        except IntegrityError:
            existing = key and self._select_first(jobs.c.idempotency_key == key)
            if not existing:
                raise
            return existing, False

    def get(self, id: str) -> JobRow | None:
        return self._select_first(jobs.c.id == id)

    def list_newest(
        self,
        max_rows: int,
        kinds: tuple[str, ...] | None = None,
        columns: Sequence[str] = (),
    ) -> list[JobRow]:
        """Return the newest jobs of these kinds; without kinds all but shadow jobs.

        columns  all but long texts by default
        """
        kind = jobs.c.kind
        condition = kind.in_(kinds) if kinds else func.coalesce(kind, "") != "shadow"
        names = columns or [name for name in jobs.c.keys() if name not in _UNLISTED_COLUMNS]
        order = (jobs.c.queued_at.desc().nulls_last(), jobs.c.id)
        query = select(*(jobs.c[name] for name in names)).where(condition)
        query = query.order_by(*order).limit(max_rows)
        with self.reader.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def find_by_photo(self, filename: str) -> JobRow | None:
        """Return a job of a Mondrian service with this photo."""
        return self._select_first(jobs.c.filename == filename, jobs.c.kind.is_not(None))

    def count_queued(self) -> int:
        query = select(func.count()).where(jobs.c.status == "queued", jobs.c.kind.is_not(None))
        with self.reader.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def load_queue_rows(self, ids: Sequence[str]) -> dict[str, QueueRow]:
        """Return the state of jobs, and their places among the queued jobs of all services."""
        columns = (jobs.c.id, jobs.c.status, jobs.c.current_step, jobs.c.progress_percentage)
        with self.reader.begin() as connection:
            rows = connection.execute(select(*columns).where(jobs.c.id.in_(ids))).all()
            places: dict[str, int] = {}
            if any(row.status == "queued" for row in rows):
                waiting = connection.execute(_queued_ids()).scalars().all()
                places = {id: place for place, id in enumerate(waiting, 1)}
        return {
            row.id: QueueRow(
                row.status or "",
                row.current_step or "",
                row.progress_percentage or 0,
                places.get(row.id, 0),
            )
            for row in rows
        }

    def claim(self) -> JobRow | None:
        """Lease the job that has waited longest, shadow jobs last; None if no job is queued."""
        next_id = _queued_ids().limit(1).with_for_update(skip_locked=True)
        with self.engine.begin() as connection:
            id = connection.execute(next_id).scalar()
            if id is None:
                return None
            started = {"status": "analyzing", "started_at": utc_timestamp(), **self._lease_values()}
            connection.execute(jobs.update().where(jobs.c.id == id), started)
            return dict(connection.execute(select(jobs).where(jobs.c.id == id)).mappings().one())

    def renew_leases(self, ids: Sequence[str], progress: Mapping[str, JobRow]) -> None:
        """Renew the leases of the jobs running here; write each job's progress columns."""
        owned = jobs.update().where(self._is_owned())
        with self.engine.begin() as connection:
            connection.execute(owned.where(jobs.c.id.in_(ids)), self._lease_values())
            for id, columns in progress.items():
                connection.execute(owned.where(jobs.c.id == id), columns)

    def update_owned(self, id: str, **values: Any) -> bool:
        """Change a job that runs here; return False if another service has it now."""
        return self._update(values, jobs.c.id == id, self._is_owned()) == 1

    def complete(self, id: str, **values: Any) -> bool:
        """Complete a job; return False and change nothing if another service has it now."""
        return self.update_owned(
            id,
            status="completed",
            progress_percentage=100,
            current_step="Analysis complete",
            completed_at=utc_timestamp(),
            llm_thinking="",
            error=None,
            **_NO_LEASE,
            **values,
        )

    def fail(self, id: str, message: str) -> bool:
        """Fail a job permanently."""
        return self.update_owned(id, **_failure_values(message))

    def return_to_queue(self, id: str) -> bool:
        """Requeue a job as if it had not been started."""
        return self.update_owned(id, **_QUEUED_VALUES)

    def return_all_to_queue(self) -> int:
        """Requeue all jobs that run here, except direct ones, as if they had not been started."""
        return self._update(_QUEUED_VALUES, self._is_owned(), jobs.c.kind != "direct")

    def retry_or_fail(self, row: JobRow, message: str, crashed: bool) -> str:
        """Requeue a job, or fail it after too many attempts; return its new status.

        crashed  the model process died while it ran the job; this counts only if the job ran alone
        """
        values = self._retry_values(row, message, crashed)
        return str(values["status"]) if self.update_owned(row["id"], **values) else ""

    def reclaim_abandoned(self) -> list[str]:
        """Requeue or fail the jobs of services that died; return their ids."""
        ids = []
        with self.engine.begin() as connection:
            query = select(jobs).where(jobs.c.status == "analyzing", jobs.c.kind.is_not(None))
            rows = connection.execute(query.with_for_update(skip_locked=True)).mappings().all()
            for row in rows:
                if not self._is_abandoned(row["owner"] or "", row["leased_until"]):
                    continue
                message = "the service that ran it stopped"
                if row["kind"] == "direct":
                    values = _failure_values(f"{message}; send the request again")
                else:
                    values = self._retry_values(dict(row), message, crashed=True)
                connection.execute(jobs.update().where(jobs.c.id == row["id"]), values)
                ids.append(row["id"])
        return ids

    def restart(self, id: str) -> bool:
        """Queue a finished or pending job again, without its feedback; False if it is neither."""
        statement = jobs.update().where(
            jobs.c.id == id,
            jobs.c.status.in_(("failed", "completed", "pending")),
            jobs.c.kind.in_(("upload", "shadow")),
        )
        cleared = dict.fromkeys(("error", "completed_at", "thumbs", "note", "score"))
        values = {"status": "queued", **_initial_values(), **cleared}
        with self.engine.begin() as connection:
            restarted = connection.execute(statement, values).rowcount == 1
            if restarted:
                withdraw_feedback(connection, id)
        return restarted

    def cancel(self, id: str) -> bool:
        """Cancel a job that has not started; return False if it has."""
        values = _failure_values(CANCELLED)
        is_waiting = jobs.c.status.in_(("pending", "queued")) & jobs.c.kind.is_not(None)
        return self._update(values, jobs.c.id == id, is_waiting) == 1

    def stop(self, id: str) -> bool:
        """Stop an upload's job that waits or runs, here or elsewhere; return False otherwise."""
        conditions = (jobs.c.status.in_(("pending", *ACTIVE_STATUSES)), jobs.c.kind == "upload")
        return self._update(_failure_values(STOPPED), jobs.c.id == id, *conditions) == 1

    def delete(self, ids: Sequence[str]) -> list[str] | None:
        """Delete finished jobs with their feedback, votes and shadow jobs; return unused photos.

        Nothing is deleted, and None returned, if one of the jobs is running.
        """
        of_shadow = (jobs.c.kind == "shadow", jobs.c.pair_of.in_(ids), jobs.c.status != "analyzing")
        selected = or_(jobs.c.id.in_(ids) & jobs.c.kind.is_not(None), and_(*of_shadow))
        with self.engine.begin() as connection:
            query = select(jobs.c.filename, jobs.c.status).where(selected)
            rows = connection.execute(query.with_for_update()).all()
            if any(status == "analyzing" for _, status in rows):
                return None
            delete_feedback(connection, select(jobs.c.id).where(selected))
            connection.execute(jobs.delete().where(selected))
            connection.execute(jobs.update().where(jobs.c.pair_of.in_(ids)), {"pair_of": None})
            return _select_unused(connection, {filename for filename, _ in rows if filename})

    def delete_inactive(self) -> list[str]:
        """Delete Mondrian's jobs that are not running; return the photos that no job uses now."""
        is_inactive = and_(jobs.c.kind.is_not(None), jobs.c.status != "analyzing")
        with self.engine.begin() as connection:
            query = select(jobs.c.filename).where(is_inactive).distinct()
            names = [str(name) for name in connection.execute(query).scalars()]
            ids = select(jobs.c.id).where(is_inactive)
            delete_feedback(connection, ids)
            connection.execute(jobs.delete().where(is_inactive))
            return _select_unused(connection, names)

    def _select_first(self, *conditions: ColumnElement[bool]) -> JobRow | None:
        with self.reader.begin() as connection:
            query = select(jobs).where(*conditions).limit(1)
            row = connection.execute(query).mappings().first()
        return dict(row) if row else None

    def _update(self, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> int:
        with self.engine.begin() as connection:
            return connection.execute(jobs.update().where(*conditions), values).rowcount

    def _lease_values(self) -> JobRow:
        return {"owner": self.owner, "leased_until": time.time() + self.policy.lease_seconds}

    def _is_owned(self) -> ColumnElement[bool]:
        return and_(jobs.c.owner == self.owner, jobs.c.status == "analyzing")

    def _is_abandoned(self, owner: str, leased_until: float | None) -> bool:
        """Check the lease by the clock, which may have been set back, and by its process."""
        now = time.time()
        if leased_until is None or not now <= leased_until <= now + 2 * self.policy.lease_seconds:
            return True
        machine, pid, start_time, _ = owner.rsplit(":", 3)
        return machine == _machine_id() and _process_start_time(int(pid)) != start_time

    def _retry_values(self, row: JobRow, message: str, crashed: bool) -> JobRow:
        crashes, strikes = row["crashes"] or 0, row["strikes"] or 0
        attempts = (row["retry_count"] or 0) + (not crashed)
        strikes += crashed and crashes > 0
        if max(attempts, strikes) >= self.policy.max_attempts:
            return _failure_values(message) | {"retry_count": attempts, "strikes": strikes}
        return {
            **_QUEUED_VALUES,
            "error": message,
            "queued_at": time.time(),
            "retry_count": attempts,
            "crashes": crashes + crashed,
            "strikes": strikes,
        }


def _migrate(engine: Engine) -> list[str]:
    try:
        return retry_while_locked(partial(migrate, engine), engine_name(engine))
    except SQLAlchemyError as error:
        message = format_database_error(error)
        raise DataError(f"--db {engine_name(engine)} cannot be changed: {message}") from None


def _queued_ids() -> Select[str]:
    """Select the queued jobs in the order in which they are claimed."""
    is_shadow = case((jobs.c.kind == "shadow", 1), else_=0)
    query = select(jobs.c.id).where(jobs.c.status == "queued")
    query = query.where(jobs.c.kind.in_(("upload", "shadow")))
    return query.order_by(is_shadow, jobs.c.queued_at, jobs.c.id)


def _select_unused(connection: Connection, filenames: Collection[str]) -> list[str]:
    """Return the photos that no job uses."""
    query = select(jobs.c.filename).where(jobs.c.filename.in_(filenames))
    used = set(connection.execute(query).scalars())
    return [name for name in filenames if name not in used]


def _initial_values() -> JobRow:
    zeros = dict.fromkeys(("retry_count", "crashes", "strikes", "progress_percentage"), 0)
    return {"queued_at": time.time(), "current_step": "Queued", "llm_thinking": "", **zeros}


def _free_failed_key(key: str) -> Update:
    """Return the statement that takes an idempotency key from a failed job."""
    is_failed = (jobs.c.idempotency_key == key) & (jobs.c.status == "failed")
    return jobs.update().where(is_failed).values(idempotency_key=None)


def _failure_values(message: str) -> JobRow:
    return {
        "status": "failed",
        "error": message,
        "current_step": "Failed",
        "completed_at": utc_timestamp(),
        **_NO_LEASE,
    }


@cache
def _machine_id() -> str:
    """Return the scope of process ids: host name, boot id and, in a container, pid namespace."""
    parts = [socket.gethostname()]
    if Path("/proc/self/ns/pid").exists():
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]]
        parts += [str(os.stat("/proc/self/ns/pid").st_ino)]
    return "/".join(parts)


def _process_start_time(pid: int) -> str:
    """Return when a process started, or "" if it has ended."""
    try:
        if Path("/proc/self/stat").exists():
            # proc(5): starttime, the 22nd field, does not depend on the system clock
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.NoSuchProcess):
        return ""
