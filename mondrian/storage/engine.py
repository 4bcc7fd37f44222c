"""A database by URL, or SQLite by path: opened, set up, and told of in one line where it fails."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mondrian.core.errors import DataError, one_line

LOCK_TIMEOUT_SECONDS = 30.0  # seconds that a transaction waits for another's lock


def open_engine(url: str) -> Engine:
    """A database by URL, or SQLite by path, in WAL mode.

    Raises DataError where it cannot be opened.
    """
    try:
        if "://" not in url:
            parent = os.path.dirname(os.path.abspath(url))
            os.makedirs(parent, exist_ok=True)
            url = f"sqlite:///{url}"
        if url.startswith(("postgresql://", "postgres://")):
            url = "postgresql+psycopg://" + url.split("://", 1)[1]
        lite = url.startswith("sqlite")
        wait = {"timeout": LOCK_TIMEOUT_SECONDS} if lite else {"connect_timeout": 10}
        engine = create_engine(url, connect_args=wait, pool_pre_ping=not lite)
        if lite:
            event.listen(engine, "connect", _on_connect)
            event.listen(engine, "begin", _on_begin)
        with engine.connect():
            pass
    except (SQLAlchemyError, ArgumentError, ImportError, OSError, ValueError) as error:
        raise DataError(
            f"--db {redact_url(url)} cannot be opened: {format_database_error(error)}"
        ) from None
    return engine


def format_database_error(error: Exception) -> str:
    """What a database says of its own, without SQL and parameters."""
    return one_line(getattr(error, "orig", None) or error, 200)


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we begin ourselves
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _on_begin(connection: Any) -> None:
    # A writer's lock is waited for at once: taken midway it could be refused.
    reads = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def redact_url(url: str) -> str:
    """A URL without its password."""
    return url.rsplit("@", 1)[-1].partition("?")[0]
