"""Read jobs from the application's SQLite database, without writing to it.

A database is read inside one transaction. One in WAL mode cannot be opened without touching files
next to it, nor can one with the journal of a crash: these are copied, database and log.
"""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mondrian.core.errors import DataError
from mondrian.core.fields import first_timestamp, is_for_advisor
from mondrian.core.files import suggest_path
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.data.job_counts import FINISHED_STATUSES, JobCounts
from mondrian.data.jobs import Job, Review, UniqueIds

REQUIRED_COLUMNS = ("id", "filename", "advisor", "status")
OPTIONAL_COLUMNS = (
    "llm_outputs analysis_markdown analysis_html error prompt llm_prompt mode model model_used "
    "adapter kind adapter_version exposure"
).split()
TIME_COLUMNS = ("completed_at", "started_at", "created_at")
_REVIEW_COLUMNS = ("verdict", "critique", "original", "who", "at")
_NEWEST_FEEDBACK = """  -- one pass over the table, then the newest row of each job by its number
    (SELECT job, MAX(number) AS number FROM mondrian_feedback WHERE advisor = :advisor
        GROUP BY job) AS newest ON newest.job = jobs.id
    LEFT JOIN mondrian_feedback AS feedback ON feedback.number = newest.number"""
_LOCK_SECONDS = 10.0
_SNAPSHOT_ATTEMPTS = 20


class SqliteJobSource:
    """The table `jobs` of an open database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = _read_columns(connection)
        self._has_feedback = bool(_read_columns(connection, "mondrian_feedback"))

    def count_jobs(self) -> JobCounts:
        query = "SELECT advisor, status, COUNT(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2"
        rows = self._connection.execute(query)
        return JobCounts((_to_text(field), _to_text(status), n) for field, status, n in rows)

    def iter_filenames(self) -> Iterator[str]:
        """Yield the filenames of the finished jobs of all advisors."""
        query = "SELECT DISTINCT filename, status FROM jobs"
        for filename, status in self._connection.execute(query):
            if _to_text(status).strip().lower() in FINISHED_STATUSES:
                yield _to_text(filename)

    def iter_finished(self, advisor: str | None) -> Iterator[Job]:
        """Yield finished jobs in the order of the file: of an advisor, or all without reviews."""
        names = (*REQUIRED_COLUMNS[:3], *OPTIONAL_COLUMNS)
        texts = [name for name in names if name in self._columns]
        times = [name for name in TIME_COLUMNS if name in self._columns]
        columns = [*map(_bounded_column_sql, texts), *(f'jobs."{name}"' for name in times)]
        columns += [self._row_number_sql(), "jobs.status"]
        join = ""
        if self._has_feedback:
            columns += [f"feedback.{name}" for name in _REVIEW_COLUMNS]
            join = f"LEFT JOIN {_NEWEST_FEEDBACK}"
        # A coarse filter, so that the texts of other rows are not read; the exact one is below.
        candidates = (
            "(instr(lower(jobs.status), 'done') OR instr(lower(jobs.status), 'completed')) "
            "AND (:advisor IS NULL OR instr(jobs.advisor, :advisor) OR instr(jobs.advisor, 'all'))"
        )
        query = f"SELECT {', '.join(columns)} FROM jobs {join} WHERE {candidates}"
        ids = UniqueIds()
        for count, row in enumerate(self._connection.execute(query, {"advisor": advisor}), 1):
            values = dict(zip(texts, row, strict=False))
            timestamp = first_timestamp(row[len(texts) : len(texts) + len(times)])
            number, status, *review = row[len(texts) + len(times) :]
            is_finished = _to_text(status).strip().lower() in FINISHED_STATUSES
            field = _to_text(values["advisor"])
            if is_finished and (advisor is None or is_for_advisor(field, advisor)):
                place = f"row {number if isinstance(number, int) else count}"
                values["id"] = ids.add(_to_text(values["id"]) or place, place)
                yield _make_job(values, timestamp, _make_review(review))

    def _row_number_sql(self) -> str:
        """Return SQL for the row number, which distinguishes equal ids; a view has none."""
        try:
            self._connection.execute("SELECT jobs.rowid FROM jobs LIMIT 0")
        except sqlite3.OperationalError:
            return "NULL"
        return "jobs.rowid"


@contextmanager
def open_database(path: Path) -> Iterator[SqliteJobSource]:
    """Open a database and read its present state until it is closed.

    Raises DataError if the file is missing, invalid or locked, or lacks a required column.
    """
    check_file(path)
    real_path = path.resolve()  # the log is next to the file, not next to a link to it
    with tempfile.TemporaryDirectory(prefix="mondrian-") as scratch:
        try:
            with closing(_connect(real_path, Path(scratch))) as connection:
                _check_schema(connection, path)
                yield SqliteJobSource(connection)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: {_explain(error)}") from None


def _connect(path: Path, scratch: Path) -> sqlite3.Connection:
    with path.open("rb") as file:
        file.seek(18)
        is_in_wal_mode = b"\x02" in file.read(2)  # format versions for writing and for reading
    if not is_in_wal_mode:
        try:
            return _open(path, "ro")
        except sqlite3.OperationalError as error:
            if not path.with_name(path.name + "-journal").exists() or "locked" in str(error):
                raise
    return _open(copy_database(path, scratch), "rw")  # a copy may have to be rolled back


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database inside a read transaction."""
    uri = f"file:{quote(os.fsencode(path))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # acquires the lock
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _bounded_column_sql(name: str) -> str:
    """Return SQL for a column, or for its length if it is over the limit."""
    column = f'jobs."{name}"'
    return f"CASE WHEN length({column}) <= {MAX_CHARACTERS} THEN {column} ELSE length({column}) END"


def _make_review(values: list[Any]) -> Review | None:
    if not values or values[0] is None:
        return None
    verdict, critique, original, who = map(_to_text, values[:4])
    reviewed_at = values[4] if isinstance(values[4], float) else 0.0
    return Review(verdict, critique, original, who, reviewed_at)


def _make_job(values: dict[str, Any], timestamp: float, review: Review | None) -> Job:
    too_long = ""
    for name, value in values.items():
        if isinstance(value, int) and value > MAX_CHARACTERS and name != "id":
            too_long = f"{name} has {value:,} characters; at most {MAX_CHARACTERS:,}"
            values[name] = ""
    texts: dict[str, Any] = {name: _to_text(value) for name, value in values.items()}
    return Job(timestamp=timestamp, too_long_message=too_long, review=review, **texts)


def _to_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _read_columns(connection: sqlite3.Connection, table: str = "jobs") -> list[str]:
    return [str(row[1]).lower() for row in connection.execute(f"PRAGMA table_xinfo({table})")]


def missing_source_message(path: Path) -> str:
    return f"{path} does not exist{suggest_path(path)}; set application.db_path in params.yaml"


def check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(missing_source_message(path))
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise DataError(f"{path} is empty (0 bytes); copy the application's database again")
    if start != b"SQLite format 3\x00":
        raise DataError(f"{path} is not an SQLite database, nor a .csv, .jsonl or .json list")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    columns = _read_columns(connection)
    if not columns:
        tables = [str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        raise DataError(
            f"{path} has no table jobs (it has {', '.join(tables[:8]) or 'no tables'}); "
            "is it the application's database?"
        )
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise DataError(
            f"{path}: jobs has no column {', '.join(missing)}; it has {', '.join(columns)}"
        )


def copy_database(path: Path, folder: Path) -> Path:
    """Copy database and log; repeat if a checkpoint or a new log happened in between."""
    attempts, deadline = 0, time.monotonic() + _LOCK_SECONDS
    while attempts < _SNAPSHOT_ATTEMPTS or time.monotonic() < deadline:
        attempts += 1
        before = _fingerprint(path)
        for suffix in ("", "-wal", "-journal"):
            source, target = path.with_name(path.name + suffix), folder / (path.name + suffix)
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
        if _fingerprint(path) == before:
            return folder / path.name
        time.sleep(0.01)  # a busy writer leaves a few ms between two checkpoints
    raise DataError(f"{path} changes all the time; try again when it is not in use")


def _fingerprint(path: Path) -> tuple[Any, ...]:
    """Return what changes when pages move into the main file: its stamp and its log's header."""
    stat, log = path.stat(), path.with_name(path.name + "-wal")
    header = b""
    if log.exists():
        with log.open("rb") as file:
            header = file.read(32)
    return stat.st_mtime_ns, stat.st_size, header


def _explain(error: sqlite3.Error) -> str:
    if "locked" in str(error) or "busy" in str(error):
        return f"locked by another process for {_LOCK_SECONDS:.0f} s; stop it or try again"
    command = "sqlite3 FILE 'PRAGMA integrity_check'"
    return f"{error}; the file may be damaged: check it with `{command}`"
