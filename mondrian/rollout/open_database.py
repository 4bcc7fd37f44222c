"""The roll-outs of a database that is there already: looking makes no file and no table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.rollout.report import split_newest
from mondrian.rollout.store import RolloutRecord, RolloutStore
from mondrian.storage.engine import format_database_error, open_engine, redact_url
from mondrian.storage.tables import decisions, feedback, jobs, rollouts

_REQUIRED_TABLES = {table.name for table in (jobs, rollouts, decisions, feedback)}
_NO_ROLLOUTS_HINT = "a service that runs with --rollout writes them"


def open_rollouts(db: str) -> RolloutStore:
    """By SQLite path or database URL. Raises DataError where there is none, or no tables in it."""
    if "://" in db:
        engine = open_engine(db)
        table_names = set(inspect(engine).get_table_names())
    else:
        table_names = _tables(Path(db))
    if missing := _REQUIRED_TABLES - table_names:
        raise DataError(
            f"--db {redact_url(db)} has no table {min(missing)}, so no roll-outs; "
            f"{_NO_ROLLOUTS_HINT}"
        )
    return RolloutStore(engine if "://" in db else open_engine(db))


@contextmanager
def connect_rollouts(db: str) -> Iterator[RolloutStore]:
    """The same, and a database that goes away meanwhile is a DataError too."""
    rollouts = open_rollouts(db)
    try:
        yield rollouts
    except SQLAlchemyError as error:
        raise DataError(f"--db {redact_url(db)}: {format_database_error(error)}") from None


def select_rollouts(
    rollouts: RolloutStore, advisor: str, include_older: bool = False
) -> list[RolloutRecord]:
    """The newest of an advisor, or of each, or all. Raises DataError where there is none."""
    new, old = split_newest(rollouts, advisor)
    if new:
        return [*new, *old] if include_older else new
    known = sorted({entry.advisor for entry in rollouts.list_rollouts()})
    if advisor and known:
        raise DataError(f"{advisor!r} has no roll-out; there are some of {', '.join(known)}")
    raise DataError(f"no roll-out has begun yet; {_NO_ROLLOUTS_HINT}")


def find_rollout(entries: list[RolloutRecord], version: str) -> RolloutRecord:
    """One of an advisor's by version, by the beginning of it, or by name; the newest for ''.

    Raises DataError where none is meant, or more than one.
    """
    matches = [entry for entry in entries if version in ("", entry.version, entry.name)]
    matches = matches or [entry for entry in entries if entry.version.startswith(version)]
    if len(matches) == 1 or (matches and not version):
        return matches[0]
    choices = ", ".join(f"{entry.name} ({entry.version})" for entry in entries)
    problem = "means more than one" if matches else "is none"
    raise DataError(f"--version {version!r} {problem} of {choices}")


def _tables(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"--db {path} does not exist; {_NO_ROLLOUTS_HINT}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in rows}
    except sqlite3.Error as error:
        raise DataError(f"--db {path} cannot be read: {error}") from None
