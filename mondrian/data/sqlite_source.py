"""The jobs database of the existing application: rows in, Job records out; nothing is ever written.

A database is read inside one transaction, so that a writer beside it changes nothing of what is
seen. One in WAL mode cannot be opened, even read-only, without touching files beside it, nor one
with the journal of a crash: such a one is copied, database and log together, until neither changed
during the copy.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mondrian.core.errors import DataError
from mondrian.core.fields import first_timestamp, is_for_advisor
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.data.jobs import Job, Review

REQUIRED_COLUMNS = ("id", "filename", "advisor", "status")
OPTIONAL_COLUMNS = (
    "llm_outputs",
    "analysis_markdown",
    "analysis_html",
    "prompt",
    "llm_prompt",
    "mode",
    "model",
    "model_used",
    "adapter",
    "kind",
    "adapter_version",
)
TIME_COLUMNS = ("completed_at", "started_at", "created_at")
FINISHED_JOB_STATUSES = ("done", "completed")
_REVIEWS = """  -- one pass over them, then the newest of each job by its number
    (SELECT job, MAX(number) AS number FROM mondrian_feedback WHERE advisor = :advisor
        GROUP BY job) AS newest ON newest.job = jobs.id
    LEFT JOIN mondrian_feedback AS said ON said.number = newest.number"""
_LOCK_SECONDS = 10.0
_SNAPSHOT_TRIES = 20


class SqliteJobSource:
    """The table `jobs` of an open database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = _columns(connection)
        self._has_feedback = bool(_columns(connection, "mondrian_feedback"))

    def count_by_advisor(self) -> dict[str, int]:
        """Rows for each value of the advisor column."""
        query = "SELECT COALESCE(advisor, ''), COUNT(*) FROM jobs GROUP BY 1 ORDER BY 1"
        return {_text(name): rows for name, rows in self._connection.execute(query)}

    def iter_finished(self, advisor: str) -> Iterator[Job]:
        """Finished jobs that concern an advisor, in the order of the file."""
        texts = [
            name for name in (*REQUIRED_COLUMNS[:3], *OPTIONAL_COLUMNS) if name in self._columns
        ]
        times = [name for name in TIME_COLUMNS if name in self._columns]
        chosen = [
            *map(_bounded_column_sql, texts),
            *(f'jobs."{name}"' for name in times),
            "jobs.status",
        ]
        review_join = _REVIEWS if self._has_feedback else "(SELECT NULL AS job) AS said ON FALSE"
        chosen += [f"said.{field.name}" for field in fields(Review)] * self._has_feedback
        # A rough choice, so that the texts of other rows are not read; the exact one is below.
        likely = (
            "(instr(lower(jobs.status), 'done') OR instr(lower(jobs.status), 'completed')) "
            "AND (instr(jobs.advisor, :advisor) OR instr(jobs.advisor, 'all'))"
        )
        query = f"SELECT {', '.join(chosen)} FROM jobs LEFT JOIN {review_join} WHERE {likely}"
        for row in self._connection.execute(query, {"advisor": advisor}):
            values = dict(zip(texts, row, strict=False))
            stamps, (status, *review) = row[len(texts) :][: len(times)], row[len(texts + times) :]
            if _text(status).strip().lower() in FINISHED_JOB_STATUSES and is_for_advisor(
                _text(values["advisor"]), advisor
            ):
                yield _job(values, first_timestamp(stamps), _review(review))


@contextmanager
def open_database(path: Path) -> Iterator[SqliteJobSource]:
    """Read a checked database, and see it as it is now until it is closed.

    Raises DataError where the file is missing, empty, no database, locked, without `jobs`, or
    where `jobs` lacks a required column.
    """
    _check_file(path)
    real = path.resolve()  # a log lies beside the file, not beside a link to it
    with tempfile.TemporaryDirectory(prefix="mondrian-") as scratch:
        connection = None
        try:
            connection = _connect(real, Path(scratch))
            _check_schema(connection, path)
            yield SqliteJobSource(connection)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: {_explain(error)}") from None
        finally:
            if connection is not None:
                connection.close()


def _connect(real: Path, scratch: Path) -> sqlite3.Connection:
    """A connection inside a read transaction, to the file itself or to a copy."""
    if not _is_in_wal_mode(real):
        connection = _open(real, "ro")
        try:
            return _begin(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            if not real.with_name(real.name + "-journal").exists() or "locked" in str(error):
                raise
    return _begin(_open(_snapshot(real, scratch), "rw"))  # a copy may have to be rolled back


def _open(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def _begin(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN")
    connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # takes the lock
    return connection


def _bounded_column_sql(name: str) -> str:
    """A column, or its length where it is beyond reading."""
    column = f'jobs."{name}"'
    return f"CASE WHEN length({column}) <= {MAX_CHARACTERS} THEN {column} ELSE length({column}) END"


def _review(values: list[Any]) -> Review | None:
    """What a person decided of a job; None where nobody did."""
    if not values or values[0] is None:
        return None
    verdict, critique, original, who = map(_text, values[:4])
    reviewed_at = values[4] if isinstance(values[4], float) else 0.0
    return Review(verdict, critique, original, who, reviewed_at)


def _job(values: dict[str, Any], when: float, review: Review | None) -> Job:
    too_long = ""
    for name, value in values.items():
        if isinstance(value, int) and value > MAX_CHARACTERS and name != "id":
            too_long = f"{name} has {value:,} characters; most {MAX_CHARACTERS:,}"
            values[name] = ""
    texts = {name: _text(value) for name, value in values.items()}
    return Job(timestamp=when, too_long_message=too_long, review=review, **texts)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _columns(connection: sqlite3.Connection, table: str = "jobs") -> list[str]:
    return [str(row[1]).lower() for row in connection.execute(f"PRAGMA table_xinfo({table})")]


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist; set application.db_path in params.yaml")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise DataError(f"{path} is empty (0 bytes); copy the application's database again")
    if start != b"SQLite format 3\x00":
        raise DataError(f"{path} is not an SQLite database")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
    columns = _columns(connection)
    if not columns:
        has = ", ".join(map(str, tables[:8])) or "no tables"
        raise DataError(
            f"{path} has no table jobs (it has {has}); is it the application's database?"
        )
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{path}: jobs has no column {', '.join(missing)}; it has {columns}")


def _is_in_wal_mode(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(18)
        return b"\x02" in file.read(2)  # the versions for writing and for reading


def _snapshot(path: Path, folder: Path) -> Path:
    """Copy database and log; again if a checkpoint or a new log came in between."""
    tries, deadline = 0, time.monotonic() + _LOCK_SECONDS
    while tries < _SNAPSHOT_TRIES or time.monotonic() < deadline:
        tries += 1
        before = _fingerprint(path)
        for end in ("", "-wal", "-journal"):
            source, target = path.with_name(path.name + end), folder / (path.name + end)
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
        if _fingerprint(path) == before:
            return folder / path.name
        time.sleep(0.01)  # between two checkpoints of a busy writer there are a few ms
    raise DataError(f"{path} is being rewritten all the time; try again when it is quiet")


def _fingerprint(path: Path) -> tuple[Any, ...]:
    """What changes when pages move into the main file: its stamp, and the head of its log."""
    stat, log = path.stat(), path.with_name(path.name + "-wal")
    head = b""
    if log.exists():
        with log.open("rb") as file:
            head = file.read(32)
    return stat.st_mtime_ns, stat.st_size, head


def _explain(error: sqlite3.Error) -> str:
    if "locked" in str(error) or "busy" in str(error):
        return f"locked by another process for {_LOCK_SECONDS:.0f} s; stop it or try again"
    return (
        f"{error}; the file may be damaged: check it with `sqlite3 FILE 'PRAGMA integrity_check'`"
    )
