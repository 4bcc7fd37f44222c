"""The job queue: harmless migrations, and leases under any order of events."""

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

from mondrian.data.sqlite_source import open_database
from mondrian.storage.engine import open_engine
from mondrian.storage.feedback import add_feedback
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy
from mondrian.storage.tables import jobs

RULES = LeasePolicy(lease_seconds=30, max_attempts=3)


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


def test_an_old_database_gets_columns_and_other_programs_still_work(
    make_db: Callable[..., Path],
) -> None:
    path = make_db({"filename": "a.jpg", "analysis_markdown": "old"}, name="mondrian.db")
    store = JobStore(open_engine(str(path)), RULES)
    assert "column jobs.model_used" in store.migrations
    assert not any("jobs.filename" in change for change in store.migrations)
    assert JobStore(open_engine(str(path)), RULES).migrations == []  # only once
    old = sqlite3.connect(path)
    old.execute(
        "INSERT INTO jobs (id, filename, advisor, status) VALUES ('n', 'b', 'ansel', 'queued')"
    )
    old.commit()
    assert old.execute("SELECT analysis_markdown FROM jobs WHERE id = 'job-0'").fetchone() == (
        "old",
    )
    recorded = {row[0] for row in old.execute("SELECT change FROM mondrian_migrations")}
    assert recorded == set(store.migrations)
    assert store.claim() is None  # other programs' rows are not touched
    assert store.delete_inactive() == []
    assert old.execute("SELECT COUNT(*) FROM jobs").fetchone() == (2,)
    old.close()
    with open_database(path) as database:  # it can still be linked
        assert [job.id for job in database.iter_finished("ansel")] == ["job-0"]


def test_scores_are_filled_in_from_readable_critiques_of_an_older_version(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    JobStore(open_engine(str(path)), RULES).close()
    outputs = ('{"analysis": {"overall_score": 6.5}}', "[" * 100_000, "{}", "5", None)
    with sqlite3.connect(path) as old:
        old.execute("ALTER TABLE jobs DROP COLUMN score")
        rows = [(str(i), text, "completed", "upload") for i, text in enumerate(outputs)]
        old.executemany(
            "INSERT INTO jobs (id, llm_outputs, status, kind) VALUES (?, ?, ?, ?)", rows
        )
    old.close()
    store = JobStore(open_engine(str(path)), RULES)
    scores = {row["id"]: row["score"] for row in store.list_newest(10)}
    assert scores == {"0": 6.5, "1": None, "2": None, "3": None, "4": None}


def test_an_idempotency_key_returns_the_first_job(store: JobStore) -> None:
    first, new = store.add(new_job(idempotency_key="k"))
    again, second = store.add(new_job(idempotency_key="k"))
    assert (new, second) == (True, False)
    assert first["id"] == again["id"]
    assert store.count_queued() == 1


@pytest.mark.parametrize("end", ["fail", "retry_or_fail", "cancel", "reclaim_abandoned"])
def test_a_failed_job_gives_its_idempotency_key_to_the_next(store: JobStore, end: str) -> None:
    kind = "direct" if end == "reclaim_abandoned" else "upload"
    first, _ = store.add(new_job(idempotency_key="k", kind=kind))
    if end == "cancel":
        assert store.cancel(first["id"])
    else:
        with store.engine.begin() as connection:
            analyzing = {"status": "analyzing", "owner": store.owner, "retry_count": 9}
            connection.execute(jobs.update(), analyzing)
        if end == "fail":
            assert store.fail(first["id"], "x")
        elif end == "retry_or_fail":
            assert store.retry_or_fail({**first, "retry_count": 9}, "x", False) == "failed"
        else:
            assert store.reclaim_abandoned() == [first["id"]]
    second, is_new = store.add(new_job(idempotency_key="k"))
    assert is_new
    assert store.add(new_job(idempotency_key="k"))[0]["id"] == second["id"] != first["id"]
    kept = store.get(first["id"])
    assert kept
    assert (kept["status"], kept["idempotency_key"]) == ("failed", None)


def test_every_change_of_a_job_sets_its_last_activity(store: JobStore) -> None:
    row, _ = store.add(new_job(id="a"))
    assert row["last_activity"] >= row["created_at"]
    changes: dict[str, Callable[[], Any]] = {
        "claim": store.claim,
        "renew": lambda: store.renew_leases(["a"], {}),
        "progress": lambda: store.update_owned("a", progress_percentage=10),
        "requeue": lambda: store.return_to_queue("a"),
        "cancel": lambda: store.cancel("a"),
        "restart": lambda: store.restart("a"),
        "claim again": store.claim,
        "complete": lambda: store.complete("a", tokens=1),
        "rate": lambda: add_feedback(store.engine, store.get("a") or {}, {"thumbs": 1}, {}),
    }
    for name, change in changes.items():
        with sqlite3.connect(store.engine.url.database or "") as connection:
            connection.execute("UPDATE jobs SET last_activity = NULL")
        connection.close()
        assert change() is not False, name
        changed = store.get("a")
        assert changed
        assert changed["last_activity"], name


def test_a_job_is_finished_once_and_only_by_its_owner(store: JobStore) -> None:
    store.add(new_job(id="a"))
    job = store.claim()
    assert job
    other = JobStore(store.engine, RULES)
    assert not other.complete("a", tokens=1)
    assert store.complete("a", tokens=2)
    assert not store.complete("a", tokens=3)
    done = store.get("a")
    assert done
    assert (done["status"], done["tokens"], done["owner"]) == ("completed", 2, None)


@pytest.mark.parametrize("kind", ["upload", "direct"])
@pytest.mark.parametrize("shift", [-7200.0, 40.0])
def test_the_job_of_a_dead_service_is_reclaimed_even_if_the_clock_was_set_back(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, kind: str, shift: float
) -> None:
    status = "analyzing" if kind == "direct" else "queued"
    store.add(new_job(id="a", kind=kind, status=status))
    store.claim()
    store.update_owned("a", owner="elsewhere:1:0.00:x")  # another machine: only its lease counts
    other = JobStore(store.engine, RULES)
    assert other.reclaim_abandoned() == []
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift)
    assert other.reclaim_abandoned() == ["a"]
    taken = other.get("a")
    assert taken
    assert taken["status"] == ("failed" if kind == "direct" else "queued")


def test_the_job_of_a_process_that_ended_on_this_machine_is_reclaimed_at_once(
    store: JobStore,
) -> None:
    store.add(new_job(id="a"))
    store.claim()
    host = store.owner.split(":")[0]
    store.update_owned("a", owner=f"{host}:999999:1.00:x")
    assert store.reclaim_abandoned() == ["a"]


def test_a_photo_that_crashes_the_model_alone_fails(store: JobStore) -> None:
    store.add(new_job(id="a"))
    ends = []
    for _ in range(10):
        job = store.claim()
        if job is None:
            break
        store.retry_or_fail(job, "the model process ended", crashed=True)
        ends.append(bool(job["crashes"]))
    assert ends == [False, True, True, True]  # once with other jobs, three times alone
    failed = store.get("a")
    assert failed
    assert failed["status"] == "failed"
    assert failed["error"] == "the model process ended"


class JobQueueMachine(RuleBasedStateMachine):
    """Three services on one database claim, finish, die and restart in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.folder = Path(tempfile.mkdtemp())
        self.engine = open_engine(str(self.folder / "jobs.db"))
        time.time = lambda: self.now
        self.stores = [self.start_service() for _ in range(3)]
        self.leased: dict[str, tuple[int, JobRow]] = {}
        self.added: set[str] = set()
        self.finished: dict[str, int] = {}

    def start_service(self) -> JobStore:
        store = JobStore(self.engine, LeasePolicy(30, 10_000))
        store.owner = f"machine:1:0.0:{uuid4().hex[:8]}"
        return store

    @rule(kind=st.sampled_from(["upload", "shadow"]))
    def add(self, kind: str) -> None:
        row, _ = self.stores[0].add(new_job(kind=kind))
        self.added.add(row["id"])

    @rule(service=st.integers(0, 2))
    def claim(self, service: int) -> None:
        job = self.stores[service].claim()
        if job:
            self.leased[job["id"]] = (service, job)

    @rule(service=st.integers(0, 2))
    def finish(self, service: int) -> None:
        for id, (holder, _) in list(self.leased.items()):
            if holder == service and self.stores[service].complete(id, tokens=1):
                self.finished[id] = self.finished.get(id, 0) + 1
                del self.leased[id]

    @rule(service=st.integers(0, 2), crashed=st.booleans())
    def retry(self, service: int, crashed: bool) -> None:
        for id, (holder, job) in list(self.leased.items()):
            if holder == service:
                self.stores[service].retry_or_fail(job, "x", crashed)
                del self.leased[id]

    @rule(service=st.integers(0, 2))
    def die(self, service: int) -> None:
        self.stores[service].reader.dispose()
        self.stores[service] = self.start_service()
        self.leased = {id: lease for id, lease in self.leased.items() if lease[0] != service}

    @rule(seconds=st.sampled_from([-100_000.0, 1.0, 10.0, 31.0, 100_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(service=st.integers(0, 2))
    def renew(self, service: int) -> None:
        ids = [id for id, (holder, _) in self.leased.items() if holder == service]
        self.stores[service].renew_leases(ids, {})

    @rule(service=st.integers(0, 2))
    def reclaim(self, service: int) -> None:
        self.stores[service].reclaim_abandoned()

    @invariant()
    def no_job_is_finished_twice(self) -> None:
        assert all(count == 1 for count in self.finished.values())

    def teardown(self) -> None:
        """Check that finally every job is completed exactly once."""
        last = self.start_service()
        self.now += 1000
        last.reclaim_abandoned()
        while job := last.claim():
            assert last.complete(job["id"], tokens=1)
            self.finished[job["id"]] = self.finished.get(job["id"], 0) + 1
        assert set(self.finished) == self.added
        assert all(count == 1 for count in self.finished.values())
        with self.engine.begin() as connection:
            ended = connection.execute(jobs.select()).mappings().all()
        assert {row["status"] for row in ended} <= {"completed"}
        for store in (*self.stores, last):
            store.close()
        time.time = real_time
        shutil.rmtree(self.folder)


real_time = time.time
TestJobQueue = JobQueueMachine.TestCase
TestJobQueue.settings = settings(max_examples=25, stateful_step_count=25)


def test_a_deleted_job_takes_its_shadow_job_and_their_photo_with_it(store: JobStore) -> None:
    first, other = new_job(status="completed"), new_job(filename="uploads/b.jpg")
    shadow = {"kind": "shadow", "pair_of": first["id"]}
    for row in (first, other, new_job(**shadow), new_job(status="analyzing", **shadow)):
        store.add(row)
    assert store.delete([first["id"]]) == []  # a shadow job is running
    assert [row["pair_of"] for row in store.list_newest(9, ("shadow",))] == [None]
    first = new_job(status="completed", filename="uploads/c.jpg")
    store.add(first)
    store.add(new_job(kind="shadow", pair_of=first["id"], filename="uploads/c.jpg"))
    assert store.delete([first["id"]]) == ["uploads/c.jpg"]
    assert [row["id"] for row in store.list_newest(9)] == [other["id"]]
