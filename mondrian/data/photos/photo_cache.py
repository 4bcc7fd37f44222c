"""SQLite caches of facts about photos: created again after a change of their version."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mondrian.core.errors import DataError


@contextmanager
def open_cache(path: Path, version: int, schema: str) -> Iterator[sqlite3.Connection]:
    """Open a cache, in autocommit mode.

    schema  SQL that drops and creates the tables, run if the file has another version

    Raises DataError, also for an SQLite error inside the context.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != version:
                connection.executescript(f"{schema} PRAGMA user_version = {version};")
            connection.execute("PRAGMA synchronous = OFF")  # a lost cache is created again
            yield connection
    except sqlite3.Error as error:
        raise DataError(f"{path}: {error}; delete this cache, it will be created again") from None
