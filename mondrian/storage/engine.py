"""Opening the jobs database: PostgreSQL by URL, or SQLite by path or URL."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as DatabaseTimeoutError

from mondrian.core.errors import DataError, one_line

LOCK_SECONDS = 5.0  # that a query waits for a lock of another program
START_SECONDS = 30.0  # that a start waits for a database that is locked
_LOG_SECONDS = 1.0  # after which a start logs that it waits
_CONNECTIONS = {"pool_size": 8, "max_overflow": 16, "pool_timeout": LOCK_SECONDS}
_SCHEME = re.compile(r"(sqlite|postgres(ql)?(\+[a-z0-9]+)?|file|https?|mysql|mariadb):|[a-z]+://")
_SQLITE_URL, _POSTGRES_URL = "sqlite:///", re.compile(r"postgres(ql)?(\+psycopg)?://")
_SQLITE_LOCKED = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED
_POSTGRES_LOCKED = "55P03"  # lock_not_available
Result = TypeVar("Result")
log = logging.getLogger("mondrian.database")


def open_engine(url: str) -> Engine:
    """Open a database by URL, or SQLite by path, in WAL mode.

    A database that is locked is waited for, for START_SECONDS. Raises DataError.
    """
    address = _parse_address(url)
    try:
        if isinstance(address, URL):
            os.makedirs(os.path.dirname(os.path.abspath(address.database or "")), exist_ok=True)
        engine = _create_engine(address)
        retry_while_locked(lambda: engine.connect().close(), redact_url(url))
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        message = format_database_error(error)
        raise DataError(f"--db {redact_url(url)} cannot be opened: {message}") from None
    return engine


def open_reader(engine: Engine) -> Engine:
    """Return an engine of the same database with connections of its own, which only read.

    Reads do not wait for connections that writers use while these wait for a lock.
    """
    return _create_engine(engine.url, reads=True, postgresql_readonly=True)


def check_writable(engine: Engine) -> None:
    """Raise SQLAlchemyError if the database cannot be reached, is locked or only readable."""
    with engine.begin() as connection:  # in SQLite this takes the lock of a writer
        if connection.dialect.name == "postgresql":
            if connection.execute(text("SHOW transaction_read_only")).scalar() == "on":
                raise SQLAlchemyError("it is a read-only copy of another server")


def retry_while_locked(call: Callable[[], Result], name: str) -> Result:
    """Call until the database `name` is not locked, and log that it waits.

    Raises DataError if it is locked for START_SECONDS, other errors as they are.
    """
    deadline = monotonic() + START_SECONDS
    message = "--db %s is busy or locked; waiting up to %g s"
    timer = Timer(_LOG_SECONDS, log.warning, (message, name, START_SECONDS))
    timer.start()
    try:
        while True:
            try:
                return call()
            except OperationalError as error:
                if not is_locked(error):
                    raise
                if monotonic() > deadline:
                    raise DataError(
                        f"--db {name} was locked by another program for {START_SECONDS:g} s; "
                        "end that program or wait until it has finished, then start again"
                    ) from None
    finally:
        timer.cancel()


def engine_name(engine: Engine) -> str:
    """Return the file or server of a database, without user and password."""
    url = engine.url
    is_file = url.drivername.startswith("sqlite")
    return url.database or "" if is_file else redact_url(url.render_as_string())


def is_locked(error: BaseException) -> bool:
    """Return whether a query failed because it waited too long for a lock or a connection."""
    if isinstance(error, DatabaseTimeoutError):
        return True
    driver_error = getattr(error, "orig", None)
    if getattr(driver_error, "sqlstate", None) == _POSTGRES_LOCKED:
        return True
    return getattr(driver_error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_LOCKED


def format_database_error(error: Exception) -> str:
    """Return the driver's own message on one line, without SQL and parameters."""
    return one_line(getattr(error, "orig", None) or error, 200)


def redact_url(url: str) -> str:
    """Return a URL without user, password and query."""
    return url.rsplit("@", 1)[-1].partition("?")[0]


def _parse_address(url: str) -> str | URL:
    """Return the address of a server, or the SQLAlchemy URL of a file; or raise DataError."""
    if _POSTGRES_URL.match(url):
        return "postgresql+psycopg://" + url.split("://", 1)[1]
    path = url.removeprefix(_SQLITE_URL)
    is_url_with_query = path != url and "?" in path
    if not path or path == ":memory:" or _SCHEME.match(path) or is_url_with_query:
        raise DataError(
            f"--db is {redact_url(url)!r}; give a file name such as data/service/mondrian.db, "
            "or a URL: postgresql://user@host/name or sqlite:///file"
        )
    if Path(path).is_dir():
        raise DataError(f"--db {path} is a folder; give a file in it: {Path(path, 'mondrian.db')}")
    return URL.create("sqlite", database=path)  # a path is literal: `?` and `%` too


def _create_engine(address: str | URL, **execution_options: Any) -> Engine:
    options: dict[str, Any] = {**_CONNECTIONS, "execution_options": execution_options}
    if str(address).startswith("sqlite"):
        engine = create_engine(address, connect_args={"timeout": LOCK_SECONDS}, **options)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        settings = {"connect_timeout": 10}
        engine = create_engine(address, connect_args=settings, pool_pre_ping=True, **options)
        event.listen(engine, "connect", _configure_postgres)
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins the transactions
    # another program may write text that is not UTF-8: it must not hide the other rows
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _configure_postgres(connection: Any, _: Any) -> None:
    connection.execute(f"SET lock_timeout = {int(1000 * LOCK_SECONDS)}")
    connection.commit()


def _begin_sqlite(connection: Any) -> None:
    # A writer takes its lock at the start: SQLite can refuse to upgrade a read lock later.
    is_read_only = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
