"""Attacks on storage and photos: the service stays quick and small, and others lose no request."""

import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from mondrian.storage.engine import LOCK_SECONDS, open_engine
from mondrian.storage.jobs import JobStore, LeasePolicy
from mondrian.storage.tables import jobs
from tests.core import odd_photos
from tests.service_process import ServiceProcess, run_service
from tests.serving.service_jobs import (
    analyze,
    encode_jpeg,
    has_started_a_job,
    job_rows,
    upload,
    wait_until_ended,
)
from tests.storage.job_rows import new_job
from tests.waiting import setting, wait_for

pytestmark = pytest.mark.slow
MAX_HEALTH_SECONDS = 1.0  # 95th percentile
MAX_BYTES = 10**9  # of the service's process, without the model's
LOCKED_SECONDS = 45


@dataclass
class Probe:
    """Times of /health and memory of the service while it is under attack."""

    seconds: list[float] = field(default_factory=list)
    max_bytes: int = 0

    def check(self) -> None:
        assert len(self.seconds) > 20
        assert float(np.percentile(self.seconds, 95)) < MAX_HEALTH_SECONDS
        assert self.max_bytes < MAX_BYTES


@contextmanager
def probing(service: ServiceProcess) -> Iterator[Probe]:
    probe, done = Probe(), Event()
    process = psutil.Process(service.process.pid)

    def ask_repeatedly() -> None:
        with service.client() as client:
            while not done.wait(0.05):
                started = time.monotonic()
                assert client.get("/health").status_code == 200
                probe.seconds.append(time.monotonic() - started)
                probe.max_bytes = max(probe.max_bytes, process.memory_info().rss)

    thread = Thread(target=ask_repeatedly)
    thread.start()
    with setting(done):
        yield probe
    thread.join()
    probe.check()


def repeat_until(done: Event, call: Callable[[], Any]) -> list[Any]:
    results = []
    while not done.is_set():
        results.append(call())
    return results


def make_bombs() -> dict[str, bytes]:
    """Return large_files(), and files that are slow to look at before they are refused."""
    bombs = {name: content for name, content, _ in odd_photos.large_files()}
    bombs["80 megapixels in few bytes"] = odd_photos.encode(
        Image.new("RGB", (8900, 8900)), "PNG", compress_level=1
    )
    bombs["a JPEG of a million segments"] = b"\xff\xd8\xff" + b"\xfe\0\2\xff" * 10**6
    bombs["a HEIC of many names"] = odd_photos.HEIC[:32] + b"infe" * 10**6
    return bombs


def test_bombs_hold_up_no_photo_of_others(tmp_path: Path, photos: list[Image.Image]) -> None:
    bombs, jpegs = make_bombs(), [encode_jpeg(photo) for photo in photos]
    accepted = [name for name, _, expected in odd_photos.large_files() if type(expected) is tuple]
    with run_service(tmp_path, requests_per_minute=0) as service:

        def send(name: str) -> tuple[str, int]:
            with service.client() as client:
                response = client.post("/upload", files={"image": ("a.jpg", bombs[name])})
            return name, response.status_code

        with ThreadPoolExecutor(10) as pool, probing(service):
            attacks = [pool.submit(send, name) for _ in range(2) for name in bombs]
            answers = [analyze(service, jpegs[i % 6]).status_code for i in range(6)]
            statuses = [attack.result() for attack in attacks]
        assert answers == [200] * 6
        for name, status in statuses:
            assert status in ((201,) if name in accepted else (400, 415, 422)), (name, status)


def fill_database(path: Path, count: int) -> None:
    """Add finished jobs with texts as long as those of a real model."""
    store = JobStore(open_engine(str(path)), LeasePolicy(30, 3))
    names = ("prompt", "llm_prompt", "analysis_html", "summary_html", "analysis_markdown")
    texts = dict.fromkeys((*names, "llm_outputs"), "x" * 4000)
    rows = (new_job(status="completed", queued_at=float(i), **texts) for i in range(count))
    with store.engine.begin() as connection:
        connection.execute(jobs.insert(), list(rows))
    store.close()


def test_lists_of_thousands_of_jobs_do_not_hold_up_the_service(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    fill_database(tmp_path / "jobs.db", 4000)
    with run_service(tmp_path, requests_per_minute=0) as service:

        def read(path: str) -> int:
            with service.client() as client:
                return client.get(path).status_code

        done = Event()
        with ThreadPoolExecutor(11) as pool, probing(service), setting(done):
            paths = ["/jobs?limit=200"] * 10 + ["/history"]
            readers = [pool.submit(repeat_until, done, partial(read, path)) for path in paths]
            answers = [analyze(service, encode_jpeg(photo)).status_code for photo in photos]
            done.set()
            statuses = Counter(status for reader in readers for status in reader.result())
        assert answers == [200] * len(photos)
        assert set(statuses) == {200}
        assert statuses[200] > 50


@contextmanager
def locked_by_another_process(db: Path, seconds: float) -> Iterator[None]:
    """Let another process hold the lock of a writer; wait until it has released it."""
    code = (
        "import sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "db.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
        "db.execute('COMMIT')\n"
    )
    command = [sys.executable, "-c", code, str(db), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        yield
        assert process.wait() == 0


def test_a_database_that_is_locked_for_45_seconds_loses_no_request(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    jpegs = [encode_jpeg(photo) for photo in photos]
    with run_service(tmp_path, batch_size=2, requests_per_minute=0) as service:

        def upload_during_lock(jpeg: bytes) -> tuple[int, str, float]:
            started = time.monotonic()
            with service.client() as client:
                response = client.post("/upload", files={"image": ("a.jpg", jpeg)})
            seconds = time.monotonic() - started
            return response.status_code, response.headers.get("retry-after", ""), seconds

        ids = upload(service, jpegs, 2)
        with ThreadPoolExecutor(40) as pool, probing(service):
            running = [pool.submit(analyze, service, jpeg) for jpeg in jpegs[:3]]
            wait_for(lambda: has_started_a_job(service))
            wait_for(lambda: sum(row["kind"] == "direct" for row in job_rows(service)) == 3)
            with locked_by_another_process(service.db, LOCKED_SECONDS):
                refused = list(pool.map(upload_during_lock, [jpegs[3]] * 30))
                with service.client() as client:
                    started = time.monotonic()
                    assert len(client.get("/jobs?limit=200").json()["jobs"]) == 5
                    assert client.get("/history").status_code == 200
                    assert time.monotonic() - started < LOCK_SECONDS
                    ready = client.get("/ready")
                    assert (ready.status_code, ready.json()["ready"]) == (503, False)
                    assert "locked" in ready.json()["database"]
            assert [request.result().status_code for request in running] == [200] * 3
        assert {(status, retry_after) for status, retry_after, _ in refused} == {(503, "5")}
        assert max(seconds for _, _, seconds in refused) < 3 * LOCK_SECONDS
        assert wait_until_ended(service, ids) == {"completed": 2}
        assert {row["status"] for row in job_rows(service)} == {"completed"}
        assert len(job_rows(service)) == 5
        assert len(list((tmp_path / "service/uploads").iterdir())) == 5
        with service.client() as client:
            wait_for(lambda: client.get("/ready").status_code == 200)


def test_a_start_beside_a_locked_database_waits(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        db.execute("CREATE TABLE another (x)")
    db.close()
    with locked_by_another_process(tmp_path / "jobs.db", 15), run_service(tmp_path) as service:
        lines = [line["message"] for line in service.lines() if "waiting up to" in line["message"]]
        assert lines == [f"--db {service.db} is busy or locked; waiting up to 30 s"]
