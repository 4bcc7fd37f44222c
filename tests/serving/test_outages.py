"""An engine that is unavailable, broken or silent costs time, but no job and not the service."""

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
from tests.service_process import make_adapter, model_process, run_service
from tests.serving.service_jobs import (
    analyze,
    encode_jpeg,
    has_started_a_job,
    job_rows,
    upload,
    wait_until_ended,
)
from tests.storage.job_rows import new_job
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def queue_jobs(tmp_path: Path, photo: Image.Image, count: int, **values: Any) -> list[str]:
    """Queue jobs as an earlier service would have left them."""
    saved = UploadStore(tmp_path / "service", 4096, 20_480, 80).save(encode_jpeg(photo), "a.jpg")
    store = JobStore(open_engine(str(tmp_path / "jobs.db")), LeasePolicy(30, 3))
    ids = [store.add(new_job(filename=saved.filename, **values))[0]["id"] for _ in range(count)]
    store.close()
    return ids


def test_jobs_that_waited_for_a_restart_are_answered_by_their_adapter(
    tmp_path: Path, tiny: Any, params: Params, photos: list[Image.Image]
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    ids = queue_jobs(tmp_path, photos[0], 4, mode="lora")
    with run_service(tmp_path, "--lora_path", folder) as service:
        assert wait_until_ended(service, ids) == {"completed": 4}
        assert {row["model_used"] for row in job_rows(service)} == {"fine_tuned"}
        assert {row["adapter_version"] for row in job_rows(service)} != {None}


def test_a_missing_base_fails_no_job(tmp_path: Path, photos: list[Image.Image]) -> None:
    queue_jobs(tmp_path, photos[0], 5)
    with run_service(tmp_path, base="models/base/no-such", ready=False) as service:
        with service.client() as client:
            wait_for(lambda: client.get("/health").status_code == 503, service.log)
            health = client.get("/health")
            assert "no base model at models/base/no-such" in health.json()["error"]
            assert analyze(service, encode_jpeg(photos[0])).status_code == 503
        time.sleep(2)  # the service looks at its queue every second
        assert {row["status"] for row in job_rows(service)} == {"queued"}


def test_a_job_of_an_advisor_that_was_removed_ends_failed(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    ids = queue_jobs(tmp_path, photos[0], 1, advisor="monet")
    with run_service(tmp_path) as service:
        assert wait_until_ended(service, ids) == {"failed": 1}
        assert "monet" in job_rows(service)[0]["error"]


def test_a_model_process_that_is_stopped_does_not_stop_the_service(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    with run_service(tmp_path, batch_size=8) as service:
        model = model_process(service)
        assert model
        model.send_signal(signal.SIGSTOP)
        ids = upload(service, [encode_jpeg(photo) for photo in photos], 8)
        wait_for(lambda: has_started_a_job(service))
        with service.client() as client:
            assert client.get("/health").status_code == 200
        model.send_signal(signal.SIGCONT)
        assert wait_until_ended(service, ids) == {"completed": 8}


def test_a_signal_to_the_whole_group_still_finishes_what_runs(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    with run_service(tmp_path) as service:
        model = model_process(service)
        assert model
        model.send_signal(signal.SIGTERM)
        assert analyze(service, encode_jpeg(photos[0])).status_code == 200
        assert model.is_running()
