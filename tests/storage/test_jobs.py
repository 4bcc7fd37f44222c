"""Jobs in the database: migrations that harm nobody, and leases under every order of events."""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mondrian.core.errors import DataError
from mondrian.data.sqlite_source import open_database
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy
from mondrian.storage.tables import jobs

RULES = LeasePolicy(lease_seconds=30, tries=3)


def new_job(**values: Any) -> JobRow:
    return {
        "id": str(uuid4()),
        "filename": "uploads/a.jpg",
        "advisor": "ansel",
        "mode": "baseline",
        "status": "queued",
        "kind": "upload",
        **values,
    }


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(open_engine(str(tmp_path / "jobs.db")), RULES)


def test_an_old_database_gets_columns_and_its_programs_go_on(make_db: Callable[..., Path]) -> None:
    path = make_db({"filename": "a.jpg", "analysis_markdown": "old"}, name="mondrian.db")
    store = JobStore(open_engine(str(path)), RULES)
    assert "column jobs.model_used" in store.changes
    assert not any("jobs.filename" in change for change in store.changes)
    assert JobStore(open_engine(str(path)), RULES).changes == []  # once is enough
    old = sqlite3.connect(path)
    old.execute(
        "INSERT INTO jobs (id, filename, advisor, status) VALUES ('n', 'b', 'ansel', 'queued')"
    )
    old.commit()
    assert old.execute("SELECT analysis_markdown FROM jobs WHERE id = 'job-0'").fetchone() == (
        "old",
    )
    recorded = {row[0] for row in old.execute("SELECT change FROM mondrian_migrations")}
    assert recorded == set(store.changes)
    assert store.claim() is None  # another program's row is its own
    assert store.delete_inactive() == []
    assert old.execute("SELECT COUNT(*) FROM jobs").fetchone() == (2,)
    old.close()
    with open_database(path) as database:  # and it can be linked as before
        assert [job.id for job in database.iter_finished("ansel")] == ["job-0"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/dev/null/x.db", "cannot be opened"),
        ("mysql://x/y", "cannot be opened"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_without_its_password(
    url: str, told: str
) -> None:
    with pytest.raises(DataError, match=told) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("hello, this is no database at all, but text" * 100)
    with pytest.raises(DataError, match="not a database"):
        open_engine(str(path))


def test_an_idempotency_key_gives_the_first_job_again(store: JobStore) -> None:
    first, new = store.add(new_job(idempotency_key="k"))
    again, second = store.add(new_job(idempotency_key="k"))
    assert (new, second) == (True, False)
    assert first["id"] == again["id"]
    assert store.count_queued() == 1


def test_a_job_is_finished_once_and_by_its_owner_alone(store: JobStore) -> None:
    store.add(new_job(id="a"))
    job = store.claim()
    assert job
    other = JobStore(store.engine, RULES)
    assert not other.finish("a", tokens=1)
    assert store.finish("a", tokens=2)
    assert not store.finish("a", tokens=3)
    done = store.get("a")
    assert done
    assert (done["status"], done["tokens"], done["owner"]) == ("completed", 2, None)


@pytest.mark.parametrize("kind", ["upload", "direct"])
@pytest.mark.parametrize("shift", [-7200.0, 40.0])
def test_a_dead_service_s_job_is_taken_over_even_with_a_clock_set_back(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, kind: str, shift: float
) -> None:
    status = "analyzing" if kind == "direct" else "queued"
    store.add(new_job(id="a", kind=kind, status=status))
    store.claim()
    store.owner = "elsewhere:1:0.00:x"  # another machine: only the lease tells
    store.update_job("a", owner=store.owner)
    other = JobStore(store.engine, RULES)
    assert other.reclaim_abandoned() == []
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    assert other.reclaim_abandoned() == ["a"]
    taken = other.get("a")
    assert taken
    assert taken["status"] == ("failed" if kind == "direct" else "queued")


def test_a_process_of_this_machine_that_is_gone_is_known_at_once(store: JobStore) -> None:
    store.add(new_job(id="a"))
    store.claim()
    host = store.owner.split(":")[0]
    store.update_job("a", owner=f"{host}:999999:1.00:x")
    assert store.reclaim_abandoned() == ["a"]


def test_a_photograph_that_kills_its_model_alone_ends_failed(store: JobStore) -> None:
    store.add(new_job(id="a"))
    ends = []
    for _ in range(10):
        job = store.claim()
        if job is None:
            break
        store.retry_or_fail(job, "the model process ended", crashed=True)
        ends.append(bool(job["crashes"]))
    assert ends == [False, True, True, True]  # in company once, alone three times
    failed = store.get("a")
    assert failed
    assert failed["status"] == "failed"
    assert failed["error"] == "the model process ended"


class Lives(RuleBasedStateMachine):
    """Three services on one database, that claim, finish, die and come back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.folder = Path(tempfile.mkdtemp())
        self.engine = open_engine(str(self.folder / "jobs.db"))
        time.time = lambda: self.now
        self.stores = [self.born() for _ in range(3)]
        self.held: dict[str, tuple[int, JobRow]] = {}
        self.asked: set[str] = set()
        self.finished: dict[str, int] = {}

    def born(self) -> JobStore:
        store = JobStore(self.engine, LeasePolicy(30, 10_000))
        store.owner = f"machine:1:0.0:{uuid4().hex[:8]}"
        return store

    @rule(kind=st.sampled_from(["upload", "shadow"]))
    def ask(self, kind: str) -> None:
        row, _ = self.stores[0].add(new_job(kind=kind))
        self.asked.add(row["id"])

    @rule(who=st.integers(0, 2))
    def claim(self, who: int) -> None:
        job = self.stores[who].claim()
        if job:
            self.held[job["id"]] = (who, job)

    @rule(who=st.integers(0, 2))
    def finish(self, who: int) -> None:
        for id, (holder, _) in list(self.held.items()):
            if holder == who and self.stores[who].finish(id, tokens=1):
                self.finished[id] = self.finished.get(id, 0) + 1
                del self.held[id]

    @rule(who=st.integers(0, 2), crashed=st.booleans())
    def fault(self, who: int, crashed: bool) -> None:
        for id, (holder, job) in list(self.held.items()):
            if holder == who:
                self.stores[who].retry_or_fail(job, "x", crashed)
                del self.held[id]

    @rule(who=st.integers(0, 2))
    def die(self, who: int) -> None:
        self.stores[who] = self.born()
        self.held = {id: one for id, one in self.held.items() if one[0] != who}

    @rule(seconds=st.sampled_from([-100_000.0, 1.0, 10.0, 31.0, 100_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=st.integers(0, 2))
    def beat(self, who: int) -> None:
        mine = [id for id, (holder, _) in self.held.items() if holder == who]
        self.stores[who].renew_leases(mine, {})

    @rule(who=st.integers(0, 2))
    def sweep(self, who: int) -> None:
        self.stores[who].reclaim_abandoned()

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert all(count == 1 for count in self.finished.values())

    def teardown(self) -> None:
        """Whatever happened, in the end every job is completed, each once."""
        last = self.born()
        self.now += 1000
        last.reclaim_abandoned()
        while job := last.claim():
            assert last.finish(job["id"], tokens=1)
            self.finished[job["id"]] = self.finished.get(job["id"], 0) + 1
        assert set(self.finished) == self.asked
        assert all(count == 1 for count in self.finished.values())
        with self.engine.begin() as connection:
            ended = connection.execute(jobs.select()).mappings().all()
        assert {row["status"] for row in ended} <= {"completed"}
        self.engine.dispose()
        time.time = time_of_day
        shutil.rmtree(self.folder)


time_of_day = time.time
TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
