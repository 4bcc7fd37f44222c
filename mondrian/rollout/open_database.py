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
from mondrian.rollout.report import newest
from mondrian.rollout.store import Entry, Rollouts
from mondrian.storage.engine import one_line, open_engine, plain
from mondrian.storage.tables import decisions, feedback, jobs, rollouts

_NEEDED = {table.name for table in (jobs, rollouts, decisions, feedback)}
_BEGIN = "a service that runs with --rollout writes them"


def open_rollouts(db: str) -> Rollouts:
    """By SQLite path or database URL. Raises DataError where there is none, or no tables in it."""
    if "://" in db:
        engine = open_engine(db)
        found = set(inspect(engine).get_table_names())
    else:
        found = _tables(Path(db))
    if missing := _NEEDED - found:
        raise DataError(f"--db {plain(db)} has no table {min(missing)}, so no roll-outs; {_BEGIN}")
    return Rollouts(engine if "://" in db else open_engine(db))


@contextmanager
def reading(db: str) -> Iterator[Rollouts]:
    """The same, and a database that goes away meanwhile is a DataError too."""
    rollouts = open_rollouts(db)
    try:
        yield rollouts
    except SQLAlchemyError as error:
        raise DataError(f"--db {plain(db)}: {one_line(error)}") from None


def chosen(rollouts: Rollouts, advisor: str, every: bool = False) -> list[Entry]:
    """The newest of an advisor, or of each, or all. Raises DataError where there is none."""
    new, old = newest(rollouts, advisor)
    if new:
        return [*new, *old] if every else new
    known = sorted({one.advisor for one in rollouts.all()})
    if advisor and known:
        raise DataError(f"{advisor!r} has no roll-out; there are some of {', '.join(known)}")
    raise DataError(f"no roll-out has begun yet; {_BEGIN}")


def version_of(entries: list[Entry], version: str) -> Entry:
    """One of an advisor's by version, by the beginning of it, or by name; the newest for ''.

    Raises DataError where none is meant, or more than one.
    """
    found = [one for one in entries if version in ("", one.version, one.name)]
    found = found or [one for one in entries if one.version.startswith(version)]
    if len(found) == 1 or (found and not version):
        return found[0]
    told = ", ".join(f"{one.name} ({one.version})" for one in entries)
    some = "means more than one" if found else "is none"
    raise DataError(f"--version {version!r} {some} of {told}")


def _tables(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"--db {path} does not exist; {_BEGIN}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in rows}
    except sqlite3.Error as error:
        raise DataError(f"--db {path} cannot be read: {error}") from None
