"""Several services on one PostgreSQL: each job is run by one of them, also if one is killed."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from mondrian.critique.schema import Critique
from mondrian.serving.ab_outcome import TUNED, load_ab_outcomes
from mondrian.storage.engine import check_writable, is_locked, open_engine
from mondrian.storage.feedback import add_vote, load_feedback_history, load_newest_feedback
from mondrian.storage.history import HistoryFilter, SearchWord, load_history
from mondrian.storage.jobs import JobStore, LeasePolicy
from tests.reviewing import add_completed_job, write_feedback
from tests.service_process import model_process, run_service, start_service, wait_for_ready
from tests.serving.service_jobs import encode_jpeg, upload
from tests.storage.job_rows import new_job
from tests.waiting import PATIENCE, wait_for

SERVER = os.environ.get("MONDRIAN_POSTGRES", "")  # .ci/run starts one
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER, reason="MONDRIAN_POSTGRES names no PostgreSQL server"),
]
POLICY = LeasePolicy(lease_seconds=30, max_attempts=3)


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a new database."""
    name = f"mondrian_{uuid4().hex[:10]}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{SERVER.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def count_statuses(url: str) -> Counter[str]:
    with psycopg.connect(url) as connection:
        return Counter(row[0] for row in connection.execute("SELECT status FROM jobs"))


def test_services_that_start_together_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: JobStore(open_engine(url), POLICY), range(6)))
    assert sorted(bool(store.migrations) for store in stores) == [False] * 5 + [True]
    for store in stores:
        store.close()


def test_services_that_claim_at_once_get_each_job_once(url: str) -> None:
    stores = [JobStore(open_engine(url), POLICY) for _ in range(8)]
    for _ in range(100):
        stores[0].add(new_job())
    barrier = Barrier(8)

    def claim_jobs(store: JobStore) -> list[str]:
        barrier.wait()
        ids = []
        while job := store.claim():
            ids.append(job["id"])
            assert store.complete(job, tokens=1)
        return ids

    with ThreadPoolExecutor(8) as pool:
        claimed = [id for ids in pool.map(claim_jobs, stores) for id in ids]
    assert len(claimed) == len(set(claimed)) == 100
    assert count_statuses(url) == {"completed": 100}
    for store in stores:
        store.close()


def test_a_table_that_another_program_locks_is_waited_for_shortly(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.storage.engine.LOCK_SECONDS", 0.3)
    store = JobStore(open_engine(url), POLICY)
    store.add(new_job(id="a"))
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE jobs IN SHARE ROW EXCLUSIVE MODE")  # reads are allowed
        with pytest.raises(OperationalError) as caught:
            store.add(new_job(id="b"))
        assert is_locked(caught.value)
        assert [row["id"] for row in store.list_newest(5)] == ["a"]
    check_writable(store.engine)
    with psycopg.connect(url, autocommit=True) as other:
        name = url.rsplit("/", 1)[1]
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store.engine.dispose()  # the next connection has the new setting
    with pytest.raises(SQLAlchemyError, match="read-only"):
        check_writable(store.engine)
    store.close()


def test_an_idempotency_key_is_known_to_every_service(url: str) -> None:
    stores = [JobStore(open_engine(url), POLICY) for _ in range(2)]
    first, _ = stores[0].add(new_job(idempotency_key="k"))
    second, new = stores[1].add(new_job(idempotency_key="k"))
    assert (second["id"], new) == (first["id"], False)
    for store in stores:
        store.close()


def test_the_key_of_a_failed_job_makes_one_new_job_however_many_services_retry(url: str) -> None:
    stores = [JobStore(open_engine(url), POLICY) for _ in range(8)]
    failed, _ = stores[0].add(new_job(idempotency_key="k"))
    stores[0].cancel(failed["id"])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda store: store.add(new_job(idempotency_key="k")), stores))
    assert sum(is_new for _, is_new in results) == 1
    assert len({row["id"] for row, _ in results} - {failed["id"]}) == 1
    for store in stores:
        store.close()


def test_a_service_finishes_the_queue_of_another_that_was_killed(
    url: str, tmp_path: Path, photos: list[Image.Image]
) -> None:
    jpegs = [encode_jpeg(photo) for photo in photos]
    flags = ("--db", url, "--data", tmp_path / "shared")
    first = start_service(tmp_path / "a", *flags, batch_size=2, lease_seconds=5)
    wait_for_ready(first)
    with run_service(tmp_path / "b", *flags, batch_size=2, lease_seconds=5) as second:
        upload(first, jpegs, 7)
        upload(second, jpegs, 7)
        wait_for(lambda: count_statuses(url)["completed"] >= 4)
        model = model_process(first)
        first.process.kill()
        first.process.wait()
        assert model
        model.wait(PATIENCE)
        with second.client() as client:

            def is_done() -> bool:
                assert client.get("/health").json()["status"] == "UP"
                return count_statuses(url).keys() == {"completed"}

            wait_for(is_done, second.log)
    assert count_statuses(url) == {"completed": 14}
    with psycopg.connect(url) as connection:
        count = connection.execute("SELECT COUNT(DISTINCT analysis_html) FROM jobs").fetchone()
    assert count == (6,)  # one for each photo


def test_feedback_that_comes_at_once_is_all_stored(url: str, critique: Critique) -> None:
    stores = [JobStore(open_engine(url), POLICY) for _ in range(6)]
    row = add_completed_job(stores[0], critique)
    barrier = Barrier(6)

    def give_feedback(store: JobStore) -> None:
        barrier.wait()
        for i in range(10):
            feedback = {"thumbs": 1} if i % 2 else {"verdict": "accepted", "critique": None}
            write_feedback(store, row, critique, **feedback)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(give_feedback, stores))
    history = load_feedback_history(stores[0].engine, row["id"])
    assert len(history) == 60
    assert (history[0]["thumbs"], history[0]["verdict"]) == (1, "accepted")  # merged
    assert stores[0].restart(row["id"])
    newest = load_newest_feedback(stores[0].engine, [row["id"]])[row["id"], "ansel"]
    assert (newest["thumbs"], newest["verdict"]) == (None, None)
    stores[0].delete_inactive()
    assert load_feedback_history(stores[0].engine, row["id"]) == []
    for store in stores:
        store.close()


def test_the_history_and_the_outcome_of_the_ab_test_are_read(url: str, critique: Critique) -> None:
    store = JobStore(open_engine(url), POLICY)
    assigned = add_completed_job(store, critique, model_used="ab_test_fine_tuned")
    left = add_completed_job(store, critique, mode="base", model_used="base")
    right = add_completed_job(store, critique, model_used="fine_tuned", pair_of=left["id"])
    words = [SearchWord("analysis", ["ansel"])]
    everything = HistoryFilter(words, "ansel", since="2026")
    page = load_history(store.reader, everything, 0, 50)
    assert (page.total, sorted(map(len, page.entries))) == (2, [1, 2])
    assert page.blind_ids == {assigned["id"], left["id"], right["id"]}
    tuned = HistoryFilter(arm="fine_tuned")
    assert load_history(store.reader, tuned, 0, 50).total == 0
    write_feedback(store, assigned, critique, thumbs=1)
    assert add_vote(store.engine, "ansel", (left, right), "right")
    assert load_history(store.reader, tuned, 0, 50).total == 2
    (outcome,) = load_ab_outcomes(store.reader, "ansel")
    assert (outcome.arms[TUNED].thumbs_up, outcome.votes[TUNED]) == (1, 1)
    assert store.delete([left["id"], right["id"]]) is not None
    assert load_history(store.reader, HistoryFilter(), 0, 50).total == 1
    store.close()
