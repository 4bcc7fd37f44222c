"""Crashes, full disks and outages under load: every job ends once, and the service stays up."""

import asyncio
import random
import resource
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.core.params import Params
from mondrian.serving.engines.base import EngineFault
from mondrian.serving.engines.ipc import WorkerConfig
from mondrian.serving.engines.local import LocalEngine
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings
from tests.conftest import ROOT
from tests.service_process import (
    ServiceProcess,
    make_adapter,
    model_process,
    run_service,
    start_service,
    wait_for_ready,
)
from tests.serving.service_jobs import (
    analyze,
    encode_jpeg,
    has_started_a_job,
    job_rows,
    upload,
    wait_until_ended,
)
from tests.waiting import PATIENCE, setting, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jpegs(photos: list[Image.Image]) -> list[bytes]:
    return [encode_jpeg(photo) for photo in photos]


def count_completed(service: ServiceProcess) -> float:
    """Return the service's own count of completed critiques."""
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("mondrian_critiques_total") and 'outcome="completed"' in line
    )


def test_a_model_killed_ten_times_loses_no_job_and_runs_none_twice(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    rng = random.Random(5)
    with run_service(tmp_path, batch_size=4, max_attempts=20) as service:
        ids = upload(service, jpegs, 10)
        kills = 0
        while kills < 10:
            wait_for(lambda: has_started_a_job(service))
            time.sleep(rng.uniform(0, 1))  # at any moment
            if model := model_process(service):
                model.kill()
                kills += 1
                ids += upload(service, jpegs, 1)
        assert wait_until_ended(service, ids) == {"completed": len(ids)}
        assert count_completed(service) == len(ids)
        with service.client() as client:
            status = client.get("/model-status").json()
    assert status["restarts"] == 10


def test_jobs_of_a_killed_service_are_taken_over(tmp_path: Path, jpegs: list[bytes]) -> None:
    first = start_service(tmp_path, batch_size=2, lease_seconds=5)
    wait_for_ready(first)
    ids = upload(first, jpegs, 8)
    wait_for(lambda: has_started_a_job(first))
    model = model_process(first)
    first.process.kill()
    first.process.wait()
    assert model is not None
    assert model.wait(PATIENCE) is not None or not model.is_running()  # it does not outlive it
    with run_service(tmp_path, batch_size=2, lease_seconds=5) as second:
        assert wait_until_ended(second, ids) == {"completed": 8}


@pytest.mark.parametrize(
    ("gpu_error", "cause"),
    [
        ("", "status 9"),
        ("[METAL] Command buffer execution failed: Impacting Interactivity", "GPU watchdog"),
    ],
)
def test_a_photo_that_crashes_the_model_ends_failed_and_the_others_completed(
    tmp_path: Path,
    params: Params,
    photos: list[Image.Image],
    gpu_error: str,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POISON", gpu_error)
    crashing_photo = photos[0].copy()
    crashing_photo.paste((255, 255, 255), (0, 0, 64, 64))
    rows = asyncio.run(_run_jobs(tmp_path, params, [crashing_photo, *photos[1:4]]))
    assert rows[0]["status"] == "failed"
    assert "the model process ended" in rows[0]["error"]
    assert cause in rows[0]["error"]
    assert [row["status"] for row in rows[1:]] == ["completed"] * 3


async def _run_jobs(
    tmp_path: Path, params: Params, photos: list[Image.Image]
) -> list[dict[str, Any]]:
    serve = params.serve.model_copy(update={"batch_size": 4})
    params = params.model_copy(update={"serve": serve})
    size = (params.image.min_pixels, params.image.max_pixels)
    config = WorkerConfig(str(ROOT / params.base.source), size, 4, serve.max_new_tokens)
    engine = LocalEngine(config, (sys.executable, "-m", "tests.poisoned_model"))
    settings = ServiceSettings(params, None, str(tmp_path / "jobs.db"), tmp_path, "")
    service = Service(settings, engine)
    async with service.lifespan_context():
        ids = []
        for i, photo in enumerate(photos):
            saved = service.uploads.save(encode_jpeg(photo), "a.jpg")
            row = _new_row(f"job-{i}", saved.filename, status="queued", kind="upload")
            await service.job_runner.call_store(service.store.add, row)
            ids.append(f"job-{i}")
        service.job_runner.notify_queued()
        direct = _new_row("direct", "uploads/x", status="analyzing", kind="direct")
        row, _ = await service.job_runner.call_store(service.store.add, direct)
        image = resize_to_fit(photos[0], *size)
        with pytest.raises(EngineFault, match="the model process ended"):
            await service.job_runner.run_direct(row, image)
        async with asyncio.timeout(PATIENCE):
            while True:
                rows = [service.store.get(id) for id in ids]
                if all(row and row["status"] in ("failed", "completed") for row in rows):
                    break
                await asyncio.sleep(0.1)
        failed = service.store.get("direct")
        assert failed
        assert failed["status"] == "failed"
        return [row for row in rows if row]


def _new_row(id: str, filename: str, **values: str) -> dict[str, Any]:
    return {"id": id, "filename": filename, "advisor": "ansel", "mode": "baseline", **values}


def test_an_adapter_is_replaced_damaged_and_removed_without_dropping_a_request(
    tmp_path: Path, tiny: Any, params: Params, jpegs: list[bytes]
) -> None:
    adapters = tmp_path / "adapters"
    versions = [make_adapter(tiny, tmp_path / f"v{i}", "ansel", params, seed=i) for i in (1, 2)]
    shutil.copytree(versions[0], adapters / "ansel")
    with run_service(tmp_path, "--lora_path", adapters, "--model_mode", "ab_test") as service:
        done = Event()
        answers: list[dict[str, Any]] = []

        def request_repeatedly(number: int) -> None:
            while not done.is_set():
                response = analyze(service, jpegs[number], mode="lora")
                assert response.status_code == 200, response.text
                answers.append(response.json())

        def wait_for_adapter(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            """Return what /model-status says of ansel's adapter once a condition holds."""

            def find_adapter() -> tuple[dict[str, Any]] | None:
                status: dict[str, Any] = client.get("/model-status").json()
                adapter = {a["advisor"]: a for a in status["adapters"]}.get("ansel", {})
                return (adapter,) if condition(adapter) else None

            with service.client() as client:
                return wait_for(find_adapter, service.log)[0]

        def wait_for_answer(version: str | None) -> None:
            before = len(answers)
            wait_for(lambda: version in {a["adapter_version"] for a in answers[before:]})

        with ThreadPoolExecutor(3) as pool, setting(done):
            clients = [pool.submit(request_repeatedly, i) for i in range(3)]
            old = wait_for_adapter(lambda a: bool(a.get("version")))["version"]
            weights = adapters / "ansel/adapter_model.safetensors"
            new_weights = (versions[1] / weights.name).read_bytes()
            weights.write_bytes(new_weights[: len(new_weights) // 2])  # an unfinished copy
            fault = wait_for_adapter(lambda a: bool(a["fault"]))
            assert fault["version"] == old
            assert "cannot be read" in fault["fault"]
            weights.write_bytes(new_weights)
            new = wait_for_adapter(lambda a: not a["fault"] and a["version"] != old)["version"]
            wait_for_answer(new)
            shutil.rmtree(adapters / "ansel")
            wait_for_adapter(lambda a: not a)
            wait_for_answer(None)
            shutil.copytree(versions[0], adapters / "ansel")
            assert wait_for_adapter(lambda a: bool(a.get("version")))["version"] == old
            wait_for_answer(old)
        for client in clients:
            client.result()
    assert {answer["adapter_version"] for answer in answers} == {old, new, None}
    for answer in answers:
        fallback = answer["fallback_occurred"]
        assert fallback == (answer["adapter_version"] is None)
        assert answer["model_used"] == ("base" if fallback else "fine_tuned")
        assert answer["fallback_reason"] or not fallback


def test_fine_tuned_does_not_start_with_a_damaged_adapter(
    tmp_path: Path, tiny: Any, params: Params
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    service = start_service(tmp_path, "--lora_path", folder, "--model_mode", "fine_tuned")
    assert service.process.wait(PATIENCE) == 1
    last = service.log().splitlines()[-1]
    assert last.startswith("error: model_mode fine_tuned: ")
    assert "cannot be read" in last
    assert "Traceback" not in service.log()


@pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux limits files of another process"
)
def test_a_full_disk_is_a_clear_error_and_survived(tmp_path: Path, jpegs: list[bytes]) -> None:
    with run_service(tmp_path) as service:
        assert analyze(service, jpegs[0]).status_code == 200
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        responses = [analyze(service, jpegs[i]) for i in range(3)]
        assert [response.status_code for response in responses] == [503] * 3
        errors = [response.json()["error"] for response in responses]
        assert all("saved" in error or "database" in error for error in errors)
        with service.client() as client:
            assert client.get("/health").status_code == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        assert analyze(service, jpegs[0]).status_code == 200
        assert "analyzing" not in {row["status"] for row in job_rows(service)}
    leftovers = [p.name for p in (tmp_path / "service/uploads").iterdir() if p.name[0] == "."]
    assert leftovers == []


def test_a_database_that_is_locked_for_seconds_delays_but_loses_nothing(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    with run_service(tmp_path) as service:
        other = sqlite3.connect(service.db, isolation_level=None)
        with ThreadPoolExecutor(6) as pool:
            requests = [pool.submit(analyze, service, jpeg) for jpeg in jpegs[:3]]
            wait_for(lambda: has_started_a_job(service))
            other.execute("BEGIN EXCLUSIVE")
            requests += [pool.submit(analyze, service, jpeg) for jpeg in jpegs[3:]]
            with service.client() as client:
                for _ in range(4):  # the service answers while its database does not
                    assert client.get("/health").status_code == 200
                    time.sleep(0.5)
            other.execute("COMMIT")
            assert [request.result().status_code for request in requests] == [200] * 6
        other.close()
        assert {row["status"] for row in job_rows(service)} == {"completed"}


def test_sigterm_finishes_what_runs_and_leaves_the_queue_for_the_next_start(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    service = start_service(tmp_path, batch_size=2, drain_seconds=PATIENCE)
    wait_for_ready(service)
    ids = upload(service, jpegs, 12)
    with ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(analyze, service, jpeg) for jpeg in jpegs[:4]]
        wait_for(lambda: sum(row["kind"] == "direct" for row in job_rows(service)) == 4)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0
        assert [request.result().status_code for request in requests] == [200] * 4
    states = Counter(row["status"] for row in job_rows(service) if row["id"] in ids)
    assert set(states) == {"completed", "queued"}
    with run_service(tmp_path, batch_size=8) as restarted:
        assert wait_until_ended(restarted, ids) == {"completed": 12}


def test_a_client_that_disconnects_frees_its_slot(tmp_path: Path, jpegs: list[bytes]) -> None:
    with run_service(tmp_path, batch_size=1) as service:
        model = model_process(service)
        assert model
        with service.client() as client:
            file = {"image": ("a.jpg", jpegs[0])}
            with client.stream("POST", "/analyze_stream", files=file) as response:
                for line in response.iter_lines():
                    if "json_token" in line:
                        model.suspend()
                        break
        wait_for(lambda: not has_started_a_job(service))
        assert [row["error"] for row in job_rows(service)] == ["the client went away"]
        model.resume()
        assert analyze(service, jpegs[1]).status_code == 200
        with service.client() as client:
            wait_for(lambda: client.get("/model-status").json()["busy"] == 0)


def test_a_critique_that_takes_too_long_is_cancelled(tmp_path: Path, jpegs: list[bytes]) -> None:
    with run_service(tmp_path, request_timeout_seconds=0.05) as service:
        response = analyze(service, jpegs[0])
        assert response.status_code == 504
        assert "not done after 0.05 s" in response.json()["error"]
        ids = upload(service, jpegs, 1)
        assert wait_until_ended(service, ids) == {"failed": 1}  # after its attempts


def test_a_share_of_photos_is_also_critiqued_by_the_other_arm(
    tmp_path: Path, tiny: Any, params: Params, jpegs: list[bytes]
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    with run_service(tmp_path, "--lora_path", folder, shadow_share=1.0) as service:
        first = analyze(service, jpegs[0], mode="lora").json()
        second = analyze(service, jpegs[1], mode="base").json()
        ids = [row["id"] for row in job_rows(service)]

        def find_shadows() -> dict[str, Any] | None:
            rows = {row["pair_of"]: row for row in job_rows(service) if row["kind"] == "shadow"}
            is_done = [row["status"] for row in rows.values()] == ["completed"] * 2
            return rows if is_done else None

        shadows = wait_for(find_shadows, service.log)
        assert shadows[first["job_id"]]["model_used"] == "base"
        assert shadows[second["job_id"]]["model_used"] == "fine_tuned"
        assert set(shadows) <= set(ids)
        assert len(job_rows(service)) == 4  # a shadow has no shadow


def test_requests_with_the_same_idempotency_key_are_one_job(
    tmp_path: Path, jpegs: list[bytes]
) -> None:
    with run_service(tmp_path) as service, service.client() as client:

        def post(_: int) -> Any:
            return client.post(
                "/analyze", files={"image": ("a.jpg", jpegs[0])}, headers={"Idempotency-Key": "k"}
            ).json()

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(post, range(4)))
        assert len({answer["job_id"] for answer in answers}) == 1
        assert len({answer["full_response"] for answer in answers}) == 1
        assert len(job_rows(service)) == 1
        assert len(list((tmp_path / "service/uploads").iterdir())) == 1


def test_memory_is_flat_under_load(tmp_path: Path, jpegs: list[bytes]) -> None:
    with run_service(tmp_path, batch_size=8) as service:
        model = model_process(service)
        assert model
        processes = (psutil.Process(service.process.pid), model)

        def memory_after_requests(count: int) -> list[int]:
            with ThreadPoolExecutor(8) as pool:
                for response in pool.map(lambda i: analyze(service, jpegs[i % 6]), range(count)):
                    assert response.status_code == 200
            return [process.memory_info().rss for process in processes]

        before, after = memory_after_requests(32), memory_after_requests(32)
    for warm_bytes, later_bytes in zip(before, after, strict=True):
        assert later_bytes < 1.15 * warm_bytes  # the long run: benchmarks/serve.py --soak
