"""The job queue: harmless migrations, and leases under any order of events."""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
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
from mondrian.storage.jobs import STOPPED, JobRow, JobStore, LeasePolicy
from mondrian.storage.tables import jobs
from tests.storage.job_rows import get_row, new_job

RULES = LeasePolicy(lease_seconds=30, max_attempts=3)


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


@pytest.mark.parametrize("id", ["NULL", "x'ff00'", "CAST(x'ff41' AS TEXT)", "'a'"])
def test_a_damaged_row_of_another_program_does_not_hold_up_the_queue(
    make_db: Callable[..., Path], id: str
) -> None:
    path = make_db({"filename": "a.jpg"}, name="mondrian.db")
    store = JobStore(open_engine(str(path)), RULES)
    store.add(new_job(id="good"))
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            "INSERT INTO jobs (id, kind, status, filename, note) "
            f"VALUES ({id}, 'upload', 'queued', 'b.jpg', CAST(x'ff41' AS TEXT))"
        )
        other.commit()
    claimed = [row["id"] for _ in range(3) if (row := store.claim())]
    assert claimed == (["a", "good"] if id == "'a'" else ["good"])


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
        first |= analyzing
        if end == "fail":
            assert store.fail(first, "x")
        elif end == "retry_or_fail":
            assert store.retry_or_fail(first, "x", False) == "failed"
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
        "renew": lambda: store.renew_leases([get_row(store, "a")], {}),
        "progress": lambda: store.update_leased(get_row(store, "a"), progress_percentage=10),
        "requeue": lambda: store.return_to_queue(get_row(store, "a")),
        "cancel": lambda: store.cancel("a"),
        "restart": lambda: store.restart("a"),
        "claim again": store.claim,
        "complete": lambda: store.complete(get_row(store, "a"), tokens=1),
        "rate": lambda: add_feedback(store.engine, get_row(store, "a"), {"thumbs": 1}, {}),
    }
    for name, change in changes.items():
        with sqlite3.connect(store.engine.url.database or "") as connection:
            connection.execute("UPDATE jobs SET last_activity = NULL")
        connection.close()
        assert change() is not False, name
        assert get_row(store, "a")["last_activity"], name


def test_a_job_is_finished_once_and_only_by_its_owner(store: JobStore) -> None:
    store.add(new_job(id="a"))
    first = store.claim()
    assert first
    assert store.return_to_queue(first)
    second = JobStore(store.engine, RULES).claim()
    assert second
    assert not store.complete(first, tokens=1)
    assert store.complete(second, tokens=2)
    assert not store.complete(second, tokens=3)
    done = get_row(store, "a")
    assert (done["status"], done["tokens"], done["owner"]) == ("completed", 2, None)


@pytest.mark.parametrize("kind", ["upload", "direct"])
@pytest.mark.parametrize("shift", [-7200.0, 40.0])
def test_the_job_of_a_dead_service_is_reclaimed_even_if_the_clock_was_set_back(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, kind: str, shift: float
) -> None:
    status = "analyzing" if kind == "direct" else "queued"
    store.add(new_job(id="a", kind=kind, status=status))
    store.claim()
    other_machine = "elsewhere:1:0.00:x"  # of which only the time of the lease counts
    store.update_leased(get_row(store, "a"), owner=other_machine)
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
    store.update_leased(get_row(store, "a"), owner=f"{host}:999999:1.00:x")
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


def test_an_earlier_run_changes_nothing_once_its_job_was_stopped_and_queued_again(
    store: JobStore,
) -> None:
    store.add(new_job(id="a"))
    first = store.claim()
    assert first
    assert store.stop("a")
    assert not store.holds_lease(first)
    assert store.restart("a")
    second = store.claim()  # by the same service, which has not ended the first run yet
    assert second
    assert store.holds_lease(second)
    assert not store.complete(first, tokens=1)
    assert store.retry_or_fail(first, "x", crashed=False) == ""
    store.renew_leases([first], {"a": {"progress_percentage": 70}})
    assert get_row(store, "a")["progress_percentage"] == 0
    store.renew_leases([second], {"a": {"progress_percentage": 20}})
    assert get_row(store, "a")["progress_percentage"] == 20
    assert store.complete(second, tokens=2)


class JobQueueMachine(RuleBasedStateMachine):
    """Three services on one database claim, finish, stop, die and restart in any order.

    A service keeps the rows of its runs until it ends them, also of a job that was stopped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.folder = Path(tempfile.mkdtemp())
        self.engine = open_engine(str(self.folder / "jobs.db"))
        time.time = lambda: self.now
        self.stores = [self.start_service() for _ in range(3)]
        self.runs: list[tuple[int, JobRow]] = []
        self.newest: dict[str, str] = {}  # lease by job
        self.added: list[str] = []
        self.finished: dict[str, int] = {}  # times by job, since it was queued last

    def start_service(self) -> JobStore:
        store = JobStore(self.engine, LeasePolicy(30, 10_000))
        store.owner = f"machine:1:0.0:{uuid4().hex[:8]}"
        return store

    def end_runs(self, service: int) -> list[JobRow]:
        ended = [row for holder, row in self.runs if holder == service]
        self.runs = [run for run in self.runs if run[0] != service]
        return ended

    @rule(kind=st.sampled_from(["upload", "shadow"]))
    def add(self, kind: str) -> None:
        row, _ = self.stores[0].add(new_job(kind=kind))
        self.added.append(row["id"])

    @rule(service=st.integers(0, 2))
    def claim(self, service: int) -> None:
        job = self.stores[service].claim()
        if job:
            self.runs.append((service, job))
            self.newest[job["id"]] = job["owner"]

    @rule(service=st.integers(0, 2))
    def finish(self, service: int) -> None:
        for job in self.end_runs(service):
            if self.stores[service].complete(job, tokens=1):
                assert job["owner"] == self.newest[job["id"]]
                self.finished[job["id"]] = self.finished.get(job["id"], 0) + 1

    @rule(service=st.integers(0, 2), crashed=st.booleans())
    def retry(self, service: int, crashed: bool) -> None:
        for job in self.end_runs(service):
            if self.stores[service].retry_or_fail(job, "x", crashed):
                assert job["owner"] == self.newest[job["id"]]

    @rule(service=st.integers(0, 2), number=st.integers(0, 5))
    def stop(self, service: int, number: int) -> None:
        if number < len(self.added) and self.stores[service].stop(self.added[number]):
            assert get_row(self.stores[service], self.added[number])["status"] == "failed"

    @rule(service=st.integers(0, 2), number=st.integers(0, 5))
    def restart(self, service: int, number: int) -> None:
        if number < len(self.added) and self.stores[service].restart(self.added[number]):
            self.finished.pop(self.added[number], None)

    @rule(service=st.integers(0, 2))
    def die(self, service: int) -> None:
        self.stores[service].reader.dispose()
        self.stores[service] = self.start_service()
        self.end_runs(service)

    @rule(seconds=st.sampled_from([-100_000.0, 1.0, 10.0, 31.0, 100_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(service=st.integers(0, 2))
    def renew(self, service: int) -> None:
        rows = [row for holder, row in self.runs if holder == service]
        self.stores[service].renew_leases(rows, {})

    @rule(service=st.integers(0, 2))
    def reclaim(self, service: int) -> None:
        self.stores[service].reclaim_abandoned()

    @invariant()
    def no_job_is_finished_twice(self) -> None:
        assert all(count == 1 for count in self.finished.values())

    @invariant()
    def only_the_newest_run_has_the_lease(self) -> None:
        for service, row in self.runs:
            is_newest = self.newest[row["id"]] == row["owner"]
            assert is_newest or not self.stores[service].holds_lease(row)

    def teardown(self) -> None:
        """Check that finally every job is completed exactly once, unless it was stopped."""
        last = self.start_service()
        self.now += 1000
        last.reclaim_abandoned()
        while job := last.claim():
            assert last.complete(job, tokens=1)
            self.finished[job["id"]] = self.finished.get(job["id"], 0) + 1
        assert all(count == 1 for count in self.finished.values())
        ended = {id: get_row(last, id) for id in self.added}
        stopped = {id for id, row in ended.items() if row["status"] == "failed"}
        assert {ended[id]["error"] for id in stopped} <= {STOPPED}
        assert set(self.finished) == set(self.added) - stopped
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
