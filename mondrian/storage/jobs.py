"""The job queue in the database. Each change of a job is one transaction.

A job is queued, then analyzing under a lease that its service renews, then completed or failed. If
a lease expires, any service takes the job over. If the model or the service died, the job is next
run alone; if it dies alone too often, it fails.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Update, and_, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.storage.engine import engine_name, format_database_error, retry_while_locked
from mondrian.storage.feedback import delete_feedback, withdraw_feedback
from mondrian.storage.job_reader import JobReader, read_rows, select_queued_ids
from mondrian.storage.job_reader import JobRow as JobRow
from mondrian.storage.leases import LeasePolicy as LeasePolicy
from mondrian.storage.leases import identify_process, is_abandoned, new_lease
from mondrian.storage.tables import jobs, migrate
from mondrian.storage.tables import utc_timestamp as utc_timestamp

NO_ROLLOUT_VALUES = dict.fromkeys(("rollout", "side", "share", "step"))
CLIENT_DISCONNECTED = "the client went away"  # `error` of a direct job whose client disconnected
STOPPED = "stopped by a person"  # `error` of a job that was stopped on its page
CANCELLED = "cancelled by a client"  # `error` of a queued job that a client cancelled
ENDED_BY_CLIENT = (CLIENT_DISCONNECTED, STOPPED, CANCELLED)  # no failures of the service
ACTIVE_STATUSES = ("queued", "analyzing")
COMPLETED_STATUSES = ("completed", "done")  # done and error: written by the application before 2026
FAILED_STATUSES = ("failed", "error")
TERMINAL_STATUSES = (*COMPLETED_STATUSES, *FAILED_STATUSES)
_NO_LEASE = {"owner": None, "leased_until": None}
_QUEUED_VALUES = {"status": "queued", "current_step": "Queued", **_NO_LEASE}


class JobStore(JobReader):
    """The jobs of a database, for one service process; `owner` identifies the process.

    A claimed row holds its lease in the column `owner`. A job that was stopped and queued again has
    another lease, also in the same process, so its earlier run can change nothing.
    """

    def __init__(self, engine: Engine, policy: LeasePolicy) -> None:
        super().__init__(engine)
        self.engine, self.policy = engine, policy
        self.owner = identify_process()
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
                return read_rows(connection.execute(added))[0], True
        except IntegrityError:
            existing = key and self._select_first(jobs.c.idempotency_key == key)
            if not existing:
                raise
            return existing, False

    def claim(self) -> JobRow | None:
        """Lease the job that has waited longest, shadow jobs last; None if no job is queued."""
        next_id = select_queued_ids().limit(1).with_for_update(skip_locked=True)
        started = {"status": "analyzing", "started_at": utc_timestamp(), **self._lease_values()}
        num_skipped = 0  # whose id, by another program, is no text or not UTF-8: no query finds it
        with self.engine.begin() as connection:
            while (id := connection.execute(next_id.offset(num_skipped)).scalar()) is not None:
                if connection.execute(jobs.update().where(jobs.c.id == id), started).rowcount:
                    return read_rows(connection.execute(select(jobs).where(jobs.c.id == id)))[0]
                num_skipped += 1
        return None

    def holds_lease(self, row: JobRow) -> bool:
        """Return whether a claimed job still has the lease of its row."""
        return self._select_first(_has_lease(row)) is not None

    def renew_leases(self, rows: Iterable[JobRow], progress: Mapping[str, JobRow]) -> None:
        """Renew the leases of these rows; write the progress columns of each job, by id."""
        leased_until = time.time() + self.policy.lease_seconds
        with self.engine.begin() as connection:
            for row in rows:
                values = {"leased_until": leased_until} | progress.get(row["id"], {})
                connection.execute(jobs.update().where(_has_lease(row)), values)

    def update_leased(self, row: JobRow, **values: Any) -> bool:
        """Change a job under the lease of its row; return False if the lease is lost."""
        return self._update(values, _has_lease(row)) == 1

    def complete(self, row: JobRow, **values: Any) -> bool:
        """Complete a job; return False and change nothing if its lease is lost."""
        return self.update_leased(
            row,
            status="completed",
            progress_percentage=100,
            current_step="Analysis complete",
            completed_at=utc_timestamp(),
            llm_thinking="",
            error=None,
            **_NO_LEASE,
            **values,
        )

    def fail(self, row: JobRow, message: str) -> bool:
        """Fail a job permanently."""
        return self.update_leased(row, **_failure_values(message))

    def return_to_queue(self, row: JobRow) -> bool:
        """Requeue a job as if it had not been started."""
        return self.update_leased(row, **_QUEUED_VALUES)

    def return_all_to_queue(self) -> int:
        """Requeue all jobs that run here, except direct ones, as if they had not been started."""
        is_leased = jobs.c.owner.startswith(self.owner, autoescape=True)
        is_running = (jobs.c.status == "analyzing") & (jobs.c.kind != "direct")
        return self._update(_QUEUED_VALUES, is_leased, is_running)

    def retry_or_fail(self, row: JobRow, message: str, crashed: bool) -> str:
        """Requeue a job, or fail it after too many attempts; return its new status.

        crashed  the model process died while it ran the job; this counts only if the job ran alone
        """
        values = self._retry_values(row, message, crashed)
        return str(values["status"]) if self.update_leased(row, **values) else ""

    def reclaim_abandoned(self) -> list[str]:
        """Requeue or fail the jobs of services that died; return their ids."""
        ids = []
        with self.engine.begin() as connection:
            query = select(jobs).where(jobs.c.status == "analyzing", jobs.c.kind.is_not(None))
            seconds = self.policy.lease_seconds
            for row in read_rows(connection.execute(query.with_for_update(skip_locked=True))):
                if not is_abandoned(row["owner"] or "", row["leased_until"], seconds):
                    continue
                message = "the service that ran it stopped"
                if row["kind"] == "direct":
                    values = _failure_values(f"{message}; send the request again")
                else:
                    values = self._retry_values(row, message, crashed=True)
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

    def _update(self, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> int:
        with self.engine.begin() as connection:
            return connection.execute(jobs.update().where(*conditions), values).rowcount

    def _lease_values(self) -> JobRow:
        leased_until = time.time() + self.policy.lease_seconds
        return {"owner": new_lease(self.owner), "leased_until": leased_until}

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


def _has_lease(row: JobRow) -> ColumnElement[bool]:
    return and_(jobs.c.id == row["id"], jobs.c.owner == row["owner"], jobs.c.status == "analyzing")


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
