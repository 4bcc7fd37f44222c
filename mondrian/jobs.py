"""The jobs database of the existing application: rows in, Job records out; nothing is ever written.

A database in WAL mode cannot be opened, even read-only, without touching files beside it, so one
that has a log is copied, database and log together, until neither changed during the copy.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mondrian.errors import DataError

REQUIRED = ("id", "filename", "advisor", "status")
OPTIONAL = (
    "llm_outputs", "analysis_markdown", "analysis_html", "prompt", "llm_prompt",
    "mode", "model", "adapter", "created_at", "started_at", "completed_at",
)  # fmt: skip
TIMES = ("completed_at", "started_at", "created_at")
FINISHED = ("done", "completed")
_LOCK_SECONDS = 10.0
_SNAPSHOT_TRIES = 20


@dataclass(frozen=True)
class Job:
    """One row; absent columns and NULL are empty text."""

    id: str
    filename: str
    advisor: str
    llm_outputs: str = ""
    analysis_markdown: str = ""
    analysis_html: str = ""
    prompt: str = ""
    llm_prompt: str = ""
    mode: str = ""
    model: str = ""
    adapter: str = ""
    created: str = ""

    @property
    def sent(self) -> str:
        """The prompt inside llm_outputs, where newer rows keep it."""
        return str(self.outputs.get("prompt", ""))

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """llm_outputs as an object; empty where it is none."""
        try:
            value = json.loads(self.llm_outputs) if self.llm_outputs.strip() else {}
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def asked_several(self) -> bool:
        """Whether the job asked more than one advisor."""
        return "," in self.advisor or self.advisor.strip() == "all"


def concerns(field: str, advisor: str) -> bool:
    """Whether a row's `advisor` field names the advisor."""
    asked = [part.strip() for part in field.split(",")]
    return advisor in asked or "all" in asked


@contextmanager
def open_jobs(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a checked database.

    Raises DataError where the file is missing, empty, no database, locked, without `jobs`, or
    where `jobs` lacks a required column.
    """
    _check_file(path)
    with tempfile.TemporaryDirectory(prefix="mondrian-") as scratch:
        real = path.resolve()  # a log lies beside the file, not beside a link to it
        readable = _snapshot(real, Path(scratch)) if _has_log(real) else real
        mode = "ro" if readable == real else "rw"  # a copy may have to be rolled back
        uri = f"file:{quote(os.fsencode(readable))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            _check_schema(connection, path)
            yield connection
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path}: {_explain(error)}") from None
        finally:
            connection.close()


def count_by_advisor(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows for each value of the `advisor` column."""
    query = "SELECT COALESCE(advisor, ''), COUNT(*) FROM jobs GROUP BY 1 ORDER BY 1"
    return {_text(name): rows for name, rows in connection.execute(query)}


def finished_jobs(connection: sqlite3.Connection, advisor: str) -> Iterator[Job]:
    """Finished jobs of an advisor, one at a time, by the best time there is and then by id."""
    columns = _columns(connection)
    have = [name for name in (*REQUIRED[:3], *OPTIONAL) if name in columns]
    row_id = next(name for name in ("rowid", "_rowid_", "oid") if name not in columns)
    select = f"SELECT {', '.join(_quoted(name) for name in have)} FROM jobs WHERE {row_id} = ?"
    times = [name for name in TIMES if name in columns]
    for _, _, number in _order(connection, advisor, row_id, times):
        row = connection.execute(select, (number,)).fetchone()
        if row is not None:  # deleted by the application meanwhile
            yield _job(dict(zip(have, row, strict=True)))


def _order(
    connection: sqlite3.Connection, advisor: str, row_id: str, times: list[str]
) -> list[tuple[float, str, int]]:
    chosen = ", ".join([row_id, "id", "advisor", "status", *map(_quoted, times)])
    order = []
    for number, job_id, asked, status, *stamps in connection.execute(f"SELECT {chosen} FROM jobs"):
        if _text(status).strip().lower() in FINISHED and concerns(_text(asked), advisor):
            when = next((s for s in map(epoch, stamps) if s is not None), float("inf"))
            order.append((when, _text(job_id), number))
    return sorted(order)


def _job(values: dict[str, Any]) -> Job:
    text = {name: _text(value) for name, value in values.items()}
    when = next((s for s in (epoch(values.get(t)) for t in TIMES) if s is not None), None)
    created = "" if when is None else datetime.fromtimestamp(when, UTC).isoformat()
    return Job(created=created, **{n: t for n, t in text.items() if n not in TIMES})


def epoch(value: Any) -> float | None:
    """Seconds since 1970 of a float, ISO text or SQL text (taken as UTC); None of anything else."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value).strip())
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < 253_402_300_800 else None  # the year 9999


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _quoted(name: str) -> str:
    return f'"{name}"'


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [str(row[1]).lower() for row in connection.execute("PRAGMA table_info(jobs)")]


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the database file, such as {path}/mondrian.db")
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
    kind = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = 'jobs'").fetchone()
    if kind[0] != "table" or "WITHOUT ROWID" in str(kind[1]).upper():
        raise DataError(f"{path}: jobs is a {kind[0]} without row ids; give the application's own")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise DataError(f"{path}: jobs has no column {', '.join(missing)}; it has {columns}")


def _has_log(path: Path) -> bool:
    """WAL mode, or a journal left by a crash: reading would write beside the database."""
    with path.open("rb") as file:
        file.seek(18)
        wal_mode = file.read(2) == b"\x02\x02"
    return wal_mode or any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))


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
