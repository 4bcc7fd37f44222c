"""Opening the jobs database: PostgreSQL by URL, or SQLite by path."""

import os
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError, one_line


def open_engine(url: str) -> Engine:
    """Open a database by URL, or SQLite by path, in WAL mode. Raises DataError."""
    address: str | URL = url
    try:
        if "://" not in url:
            os.makedirs(os.path.dirname(os.path.abspath(url)), exist_ok=True)
            address = URL.create("sqlite", database=url)  # a path is literal: `?` and `%` too
        elif url.startswith(("postgresql://", "postgres://")):
            address = "postgresql+psycopg://" + url.split("://", 1)[1]
        if str(address).startswith("sqlite"):
            engine = create_engine(address, connect_args={"timeout": 30.0})  # seconds for a lock
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            settings = {"connect_timeout": 10}
            engine = create_engine(address, connect_args=settings, pool_pre_ping=True)
        engine.connect().close()
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        message = format_database_error(error)
        raise DataError(f"--db {redact_url(url)} cannot be opened: {message}") from None
    return engine


def format_database_error(error: Exception) -> str:
    """Return the driver's own message on one line, without SQL and parameters."""
    return one_line(getattr(error, "orig", None) or error, 200)


def redact_url(url: str) -> str:
    """Return a URL without user, password and query."""
    return url.rsplit("@", 1)[-1].partition("?")[0]


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins the transactions
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Any) -> None:
    # A writer takes its lock at the start: SQLite can refuse to upgrade a read lock later.
    is_read_only = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
