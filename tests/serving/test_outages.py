"""An engine that is away, broken or silent costs time, never a job, and never the service."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.serving.http.uploads import UploadStore
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import JobStore, LeasePolicy
from tests.service_process import make_adapter, running
from tests.serving.test_faults import analyze, jpeg, model_of, rows, upload, wait_until_ended
from tests.storage.test_jobs import new_job

pytestmark = pytest.mark.slow


def queue(tmp_path: Path, photo: Image.Image, count: int, **values: Any) -> list[str]:
    """Jobs that a service before left in the queue."""
    taken = UploadStore(tmp_path / "service", 4096, 20_480, 80).save(jpeg(photo), "a.jpg")
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), LeasePolicy(30, 3))
    ids = [store.add(new_job(filename=taken.filename, **values))[0]["id"] for _ in range(count)]
    store.engine.dispose()
    return ids


def test_jobs_that_waited_for_a_restart_are_answered_by_their_adapter(
    tmp_path: Path, tiny: Any, params: Params, photos: list[Image.Image]
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    ids = queue(tmp_path, photos[0], 4, mode="lora")
    with running(tmp_path, "--lora_path", folder) as service:
        assert wait_until_ended(service, ids, 60) == {"completed": 4}
        assert {row["model_used"] for row in rows(service)} == {"fine_tuned"}
        assert {row["adapter_version"] for row in rows(service)} != {None}


def test_a_base_that_is_not_there_fails_no_job(tmp_path: Path, photos: list[Image.Image]) -> None:
    queue(tmp_path, photos[0], 5)
    with running(tmp_path, base="models/base/no-such", ready=False) as service:
        with service.client() as client:
            for _ in range(100):
                told = client.get("/health")
                if told.status_code == 503:
                    break
                time.sleep(0.1)
            assert "no base model at models/base/no-such" in told.json()["error"]
            assert analyze(service, jpeg(photos[0])).status_code == 503
        time.sleep(2)
        assert {row["status"] for row in rows(service)} == {"queued"}


def test_a_job_of_an_advisor_that_is_no_more_ends_failed(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    ids = queue(tmp_path, photos[0], 1, advisor="monet")
    with running(tmp_path) as service:
        assert wait_until_ended(service, ids, 30) == {"failed": 1}
        assert "monet" in rows(service)[0]["error"]


def test_a_model_process_that_is_stopped_does_not_stop_the_service(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    with running(tmp_path, batch_size=8) as service:
        model = model_of(service)
        assert model
        model.send_signal(signal.SIGSTOP)
        ids = upload(service, [jpeg(photo) for photo in photos], 8)
        time.sleep(1)
        with service.client() as client:
            began = time.monotonic()
            assert client.get("/health").status_code == 200
            assert time.monotonic() - began < 2
        model.send_signal(signal.SIGCONT)
        assert wait_until_ended(service, ids, 60) == {"completed": 8}


def test_a_signal_to_the_whole_group_still_finishes_what_runs(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    with running(tmp_path) as service:
        model = model_of(service)
        assert model
        model.send_signal(signal.SIGTERM)
        assert analyze(service, jpeg(photos[0])).status_code == 200
        assert model.is_running()
