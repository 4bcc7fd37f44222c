"""Several services on one PostgreSQL: each job is done by one of them, whoever dies meanwhile."""

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

from mondrian.critique.schema import Critique
from mondrian.storage.engine import open_engine
from mondrian.storage.feedback import load_feedback_history, load_newest_feedback
from mondrian.storage.jobs import JobStore, LeasePolicy
from tests.reviewing import say, served
from tests.service_process import running, start, wait_for_ready
from tests.serving.test_faults import jpeg, model_of, upload
from tests.storage.test_jobs import new_job

SERVER = os.environ.get("MONDRIAN_POSTGRES", "")  # .ci/run starts one
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER, reason="MONDRIAN_POSTGRES names no PostgreSQL server"),
]
RULES = LeasePolicy(lease_seconds=30, tries=3)


@pytest.fixture
def url() -> Iterator[str]:
    """A database of its own."""
    name = f"mondrian_{uuid4().hex[:10]}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{SERVER.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def states(url: str) -> Counter[str]:
    with psycopg.connect(url) as connection:
        return Counter(row[0] for row in connection.execute("SELECT status FROM jobs"))


def test_services_that_start_together_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: JobStore(open_engine(url), RULES), range(6)))
    assert sorted(bool(store.changes) for store in stores) == [False] * 5 + [True]
    for store in stores:
        store.engine.dispose()


def test_many_that_claim_at_once_get_each_job_once(url: str) -> None:
    stores = [JobStore(open_engine(url), RULES) for _ in range(8)]
    for _ in range(100):
        stores[0].add(new_job())
    together = Barrier(8)

    def work(store: JobStore) -> list[str]:
        together.wait()
        got = []
        while job := store.claim():
            got.append(job["id"])
            assert store.finish(job["id"], tokens=1)
        return got

    with ThreadPoolExecutor(8) as pool:
        done = [id for got in pool.map(work, stores) for id in got]
    assert len(done) == len(set(done)) == 100
    assert states(url) == {"completed": 100}
    for store in stores:
        store.engine.dispose()


def test_a_key_is_known_to_every_service(url: str) -> None:
    stores = [JobStore(open_engine(url), RULES) for _ in range(2)]
    first, _ = stores[0].add(new_job(idempotency_key="k"))
    again, new = stores[1].add(new_job(idempotency_key="k"))
    assert (again["id"], new) == (first["id"], False)
    for store in stores:
        store.engine.dispose()


def test_two_services_share_a_queue_and_one_outlives_the_other(
    url: str, tmp_path: Path, photos: list[Image.Image]
) -> None:
    shots = [jpeg(photo) for photo in photos]
    flags = ("--db", url, "--data", tmp_path / "shared")
    first = start(tmp_path / "a", *flags, batch_size=2)
    wait_for_ready(first)
    with running(tmp_path / "b", *flags, batch_size=2) as second:
        upload(first, shots, 7)
        upload(second, shots, 7)
        while states(url)["completed"] < 4:
            pass
        model = model_of(first)
        first.process.kill()
        first.process.wait()
        assert model
        model.wait(10)
        with second.client() as client:
            while states(url).keys() != {"completed"}:
                assert client.get("/health").json()["status"] == "UP"
    assert states(url) == {"completed": 14}
    with psycopg.connect(url) as connection:
        used = connection.execute("SELECT COUNT(DISTINCT analysis_html) FROM jobs").fetchone()
    assert used == (6,)  # as many as there are photographs


def test_people_who_judge_at_once_are_all_heard(url: str, critique: Critique) -> None:
    stores = [JobStore(open_engine(url), RULES) for _ in range(6)]
    row = served(stores[0], critique)
    together = Barrier(6)

    def judge(store: JobStore) -> None:
        together.wait()
        for i in range(10):
            what = {"thumbs": 1} if i % 2 else {"verdict": "accepted", "critique": None}
            say(store, row, critique, **what)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(judge, stores))
    heard = load_feedback_history(stores[0].engine, row["id"])
    assert len(heard) == 60
    assert (heard[0]["thumbs"], heard[0]["verdict"]) == (1, "accepted")  # none undid another's
    assert stores[0].requeue(row["id"])
    now = load_newest_feedback(stores[0].engine, [row["id"]])[row["id"], "ansel"]
    assert (now["thumbs"], now["verdict"]) == (None, None)
    stores[0].delete_inactive()
    assert load_feedback_history(stores[0].engine, row["id"]) == []
    for store in stores:
        store.engine.dispose()
