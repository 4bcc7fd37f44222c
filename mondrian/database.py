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
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mondrian.errors import DataError
from mondrian.jobs import Job, best_time, concerns
from mondrian.recover import MAX_CHARACTERS

REQUIRED = ("id", "filename", "advisor", "status")
OPTIONAL = (
    "llm_outputs", "analysis_markdown", "analysis_html", "prompt", "llm_prompt",
    "mode", "model", "model_used", "adapter",
)  # fmt: skip
TIMES = ("completed_at", "started_at", "created_at")
FINISHED = ("done", "completed")
_LOCK_SECONDS = 10.0
_SNAPSHOT_TRIES = 20


class Database:
    """The table `jobs` of an open database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns = _columns(connection)

    def by_advisor(self) -> dict[str, int]:
        """Rows for each value of the advisor column."""
        query = "SELECT COALESCE(advisor, ''), COUNT(*) FROM jobs GROUP BY 1 ORDER BY 1"
        return {_text(name): rows for name, rows in self._connection.execute(query)}

    def finished(self, advisor: str) -> Iterator[Job]:
        """Finished jobs that concern an advisor, in the order of the file."""
        texts = [name for name in (*REQUIRED[:3], *OPTIONAL) if name in self._columns]
        times = [name for name in TIMES if name in self._columns]
        chosen = ", ".join([*map(_bounded, texts), *(f'"{name}"' for name in times), "status"])
        # A rough choice, so that the texts of other rows are not read; the exact one is below.
        likely = (
            "(instr(lower(status), 'done') OR instr(lower(status), 'completed')) "
            "AND (instr(advisor, ?) OR instr(advisor, 'all'))"
        )
        for row in self._connection.execute(f"SELECT {chosen} FROM jobs WHERE {likely}", [advisor]):
            values = dict(zip(texts, row, strict=False))
            status = _text(row[-1]).strip().lower()
            if status in FINISHED and concerns(_text(values["advisor"]), advisor):
                yield _job(values, best_time(row[len(texts) : -1]))


@contextmanager
def open_database(path: Path) -> Iterator[Database]:
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
            yield Database(connection)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: {_explain(error)}") from None
        finally:
            if connection is not None:
                connection.close()


def _connect(real: Path, scratch: Path) -> sqlite3.Connection:
    """A connection inside a read transaction, to the file itself or to a copy."""
    if not _in_wal_mode(real):
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


def _bounded(name: str) -> str:
    """A column, or its length where it is beyond reading."""
    return f'CASE WHEN length("{name}") <= {MAX_CHARACTERS} THEN "{name}" ELSE length("{name}") END'


def _job(values: dict[str, Any], when: float) -> Job:
    too_long = ""
    for name, value in values.items():
        if isinstance(value, int) and value > MAX_CHARACTERS and name != "id":
            too_long = f"{name} has {value:,} characters; most {MAX_CHARACTERS:,}"
            values[name] = ""
    return Job(when=when, too_long=too_long, **{n: _text(value) for n, value in values.items()})


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [str(row[1]).lower() for row in connection.execute("PRAGMA table_xinfo(jobs)")]


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
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise DataError(f"{path}: jobs has no column {', '.join(missing)}; it has {columns}")


def _in_wal_mode(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(18)
        return b"\x02" in file.read(2)  # the versions for writing and for reading


def _snapshot(path: Path, folder: Path) -> Path:
    """Copy database and log; again if a checkpoint or a new log came in between."""
    for _ in range(_SNAPSHOT_TRIES):
        before = _fingerprint(path)
        for end in ("", "-wal", "-journal"):
            source, target = path.with_name(path.name + end), folder / (path.name + end)
            target.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, target)
        if _fingerprint(path) == before:
            return folder / path.name
        time.sleep(0.25)
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
