"""The jobs database: how it is named, opened, waited for and read beside a writer."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from mondrian.core.errors import DataError
from mondrian.storage import engine as engine_module
from mondrian.storage.engine import check_writable, is_locked, open_engine
from mondrian.storage.jobs import JobStore, LeasePolicy
from tests.storage.job_rows import new_job

POLICY = LeasePolicy(lease_seconds=30, max_attempts=3)


@contextmanager
def locked(path: Path, mode: str = "WAL") -> Iterator[None]:
    """Hold the lock of a writer, as another program would."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(f"PRAGMA journal_mode={mode}")
    other.execute("CREATE TABLE IF NOT EXISTS another (x)")
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.close()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(engine_module, "START_SECONDS", 0.2)
    monkeypatch.setattr(engine_module, "_LOG_SECONDS", 0.02)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/dev/null/x.db", "/dev/null/x.db cannot be opened"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "127.0.0.1"),
        ("mysql://nobody:secret@x/y", "--db is 'x/y'; give a file name such as"),
        ("sqlite:/x", "--db is 'sqlite:/x'; give a file name such as"),
        ("sqlite://x.db", "--db is 'sqlite://x.db'; give"),
        ("sqlite://", "--db is 'sqlite://'; give"),
        ("sqlite:///:memory:", "give a file name"),
        ("sqlite:///jobs.db?mode=ro", "give a file name"),
        ("sqlite:///file:jobs.db", "give a file name"),
        ("postgres:/x", "or a URL: postgresql://user@host/name or sqlite:///file"),
        ("file:jobs.db", "--db is 'file:jobs.db'; give"),
        ("http://127.0.0.1/x", "--db is 'http://127.0.0.1/x'; give"),
        ("", "--db is ''; give a file name"),
        (".", "--db . is a folder; give a file in it: mondrian.db"),
        ("sqlite:///.", "--db . is a folder"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_without_its_password(
    url: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_engine(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("hello, this is not a database but text" * 100)
    with pytest.raises(DataError, match="not a database"):
        open_engine(str(path))


@pytest.mark.parametrize("name", ["jobs.db", "what?.db", "a:b.db"])
def test_a_path_and_its_url_name_the_same_file(tmp_path: Path, name: str) -> None:
    open_engine(str(tmp_path / name)).dispose()
    assert (tmp_path / name).is_file()
    if "?" not in name:
        engine = open_engine(f"sqlite:///{tmp_path / name}")
        assert engine.url.database == str(tmp_path / name)
        engine.dispose()


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_start_beside_a_locked_database_waits_and_then_is_one_line(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jobs.db"
    with locked(path, mode), caplog.at_level(logging.WARNING):
        started = time.monotonic()
        with pytest.raises(DataError, match=r"jobs\.db was locked by another program for 0\.2 s"):
            JobStore(open_engine(str(path)), POLICY)
        assert time.monotonic() - started >= 0.2
    assert len(caplog.records) == 1
    assert f"--db {path} is busy or locked; waiting up to 0.2 s" in caplog.text
    JobStore(open_engine(str(path)), POLICY).close()


def test_a_start_continues_once_the_lock_is_released(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with locked(path):
        stores: list[JobStore] = []
        start = threading.Thread(
            target=lambda: stores.append(JobStore(open_engine(str(path)), POLICY))
        )
        start.start()
        time.sleep(0.3)
        assert not stores
    start.join(20)
    assert "table jobs" in stores[0].migrations
    stores[0].close()


@pytest.mark.usefixtures("short_waits")
def test_reads_do_not_wait_for_the_lock_of_a_writer(tmp_path: Path) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), POLICY)
    store.add(new_job(id="a"))
    with locked(tmp_path / "jobs.db"):
        with pytest.raises(OperationalError) as caught:
            store.add(new_job(id="b"))
        assert is_locked(caught.value)
        with pytest.raises(OperationalError):
            check_writable(store.engine)
        assert [row["id"] for row in store.list_newest(5)] == ["a"]
        assert store.count_queued() == 1
    check_writable(store.engine)
    store.close()


def test_other_errors_of_a_database_are_not_locks(tmp_path: Path) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), POLICY)
    with store.engine.begin() as connection, pytest.raises(OperationalError) as caught:
        connection.exec_driver_sql("SELECT * FROM no_such_table")
    assert not is_locked(caught.value)
    store.close()


def test_a_list_of_jobs_has_no_long_texts_and_is_newest_first(tmp_path: Path) -> None:
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), POLICY)
    for id in ("old", "new"):
        store.add(new_job(id=id, analysis_html="x" * 10_000))
    store.add(new_job(id="foreign", kind=None, queued_at=None))  # of another program
    rows = store.list_newest(5)
    assert [row["id"] for row in rows] == ["new", "old", "foreign"]
    assert "analysis_html" not in rows[0]
    assert list(store.list_newest(5, columns=("id", "status"))[0]) == ["id", "status"]
    with store.reader.begin() as connection:
        query = "EXPLAIN QUERY PLAN SELECT id FROM jobs ORDER BY queued_at DESC NULLS LAST LIMIT 9"
        plan = str(connection.exec_driver_sql(query).all())
    assert "mondrian_jobs_newest" in plan
    store.close()
