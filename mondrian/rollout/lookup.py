"""What commands need of a service's rollouts: its database, a rollout, and who decides."""

import getpass
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.rollout.store import RolloutRecord, RolloutStore
from mondrian.storage.engine import engine_name, format_database_error, open_engine, redact_url
from mondrian.storage.tables import decisions, feedback, jobs, rollouts

_REQUIRED_TABLES = {table.name for table in (jobs, rollouts, decisions, feedback)}
_NO_ROLLOUTS_HINT = "give the --db of the service, or start it with --rollout"


class NoRolloutsError(DataError):
    """A database that does not exist or has no rollout tables."""


@contextmanager
def open_rollout_store(db: str) -> Iterator[RolloutStore]:
    """Open an existing database by SQLite path or URL; creates no file and no table.

    Raises NoRolloutsError if it does not exist or has no rollout tables, and DataError if it is or
    becomes unavailable.
    """
    db = db.removeprefix("sqlite:///")
    engine = open_engine(db) if "://" in db else None
    tables = set(inspect(engine).get_table_names()) if engine else _list_tables(Path(db))
    if missing := _REQUIRED_TABLES - tables:
        raise NoRolloutsError(
            f"--db {redact_url(db)} has no table {min(missing)}, so no rollouts; "
            f"{_NO_ROLLOUTS_HINT}"
        )
    try:
        yield RolloutStore(engine or open_engine(db))
    except SQLAlchemyError as error:
        raise DataError(f"--db {redact_url(db)}: {format_database_error(error)}") from None


def _list_tables(path: Path) -> set[str]:
    if not path.is_file():
        raise NoRolloutsError(f"--db {path} does not exist; {_NO_ROLLOUTS_HINT}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in rows}
    except sqlite3.Error as error:
        raise DataError(f"--db {path} cannot be read: {error}") from None


def select_rollouts(
    store: RolloutStore, advisor: str, include_older: bool = False
) -> list[RolloutRecord]:
    """Return the rollout of an advisor's active version, or of each if it is empty; or all.

    Raises DataError if there is none.
    """
    newest, older = store.split_newest(advisor)
    if newest:
        return [*newest, *older] if include_older else newest
    known = sorted({record.advisor for record in store.list_rollouts()})
    if advisor and known:
        raise DataError(f"{advisor!r} has no rollout; there are rollouts of {', '.join(known)}")
    raise DataError(
        f"no rollout has started in --db {engine_name(store.engine)}; {_NO_ROLLOUTS_HINT}"
    )


def find_rollout(records: list[RolloutRecord], version: str) -> RolloutRecord:
    """Return the rollout of a version, the start of one or a name; the first for ''.

    Raises DataError if none or more than one matches.
    """
    matches = [record for record in records if version in ("", record.version, record.name)]
    matches = matches or [record for record in records if record.version.startswith(version)]
    if len(matches) == 1 or (matches and not version):
        return matches[0]
    choices = ", ".join(f"{record.name} ({record.version})" for record in records)
    problem = "matches more than one" if matches else "matches none"
    raise DataError(f"--version {version!r} {problem} of {choices}")


def current_user() -> str:
    """Return who runs the command, for the log; a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
