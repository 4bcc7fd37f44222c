"""What dies, fills up or goes away under load: every job ends, once, and the service stays."""

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
from io import BytesIO
from pathlib import Path
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
from tests.service_process import Running, make_adapter, running, start, wait_for_ready

pytestmark = pytest.mark.slow


def jpeg(photo: Image.Image) -> bytes:
    kept = BytesIO()
    photo.save(kept, "JPEG", quality=95)
    return kept.getvalue()


@pytest.fixture(scope="module")
def shots(photos: list[Image.Image]) -> list[bytes]:
    return [jpeg(photo) for photo in photos]


def upload(service: Running, shots: list[bytes], count: int) -> list[str]:
    with service.client() as client:
        out = []
        for i in range(count):
            file = {"image": (f"{i}.jpg", shots[i % len(shots)])}
            told = client.post("/upload", files=file, data={"advisor": "ansel"})
            assert told.status_code == 201, told.text
            out.append(told.json()["job_id"])
        return out


def rows(service: Running) -> list[dict[str, Any]]:
    connection = sqlite3.connect(service.db)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute("SELECT * FROM jobs")]
    finally:
        connection.close()


def wait_until_ended(service: Running, ids: list[str], seconds: float) -> Counter[str]:
    deadline = time.monotonic() + seconds
    while True:
        states = Counter(row["status"] for row in rows(service) if row["id"] in ids)
        if not states.keys() & {"queued", "analyzing"} or time.monotonic() > deadline:
            return states
        time.sleep(0.2)


def model_of(service: Running) -> psutil.Process | None:
    """The model process, where there is one now."""
    children = psutil.Process(service.process.pid).children()
    return next((c for c in children if "mondrian.serving.worker" in " ".join(c.cmdline())), None)


def completed(service: Running) -> float:
    """Critiques that were completed, as the service itself counts them."""
    with service.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("mondrian_critiques_total") and 'outcome="completed"' in line
    )


def analyze(service: Running, shot: bytes, **data: str) -> Any:
    with service.client() as client:
        return client.post("/analyze", files={"image": ("a.jpg", shot)}, data=data)


@pytest.mark.long
def test_a_model_killed_at_twenty_moments_loses_no_job_and_does_none_twice(
    tmp_path: Path, shots: list[bytes]
) -> None:
    draw = random.Random(5)
    with running(tmp_path, batch_size=4) as service:
        ids = upload(service, shots, 20)
        kills = 0
        while kills < 20:
            time.sleep(draw.uniform(0.05, 2.5))
            model = model_of(service)
            if model and any(row["status"] == "analyzing" for row in rows(service)):
                model.kill()
                kills += 1
                ids += upload(service, shots, 1)
        assert wait_until_ended(service, ids, 90) == {"completed": len(ids)}
        assert completed(service) == len(ids)
        with service.client() as client:
            status = client.get("/model-status").json()
    assert status["restarts"] == 20


def test_a_service_killed_with_jobs_under_way_is_taken_over(
    tmp_path: Path, shots: list[bytes]
) -> None:
    first = start(tmp_path, batch_size=2)
    wait_for_ready(first)
    ids = upload(first, shots, 8)
    while not any(row["status"] == "analyzing" for row in rows(first)):
        time.sleep(0.02)
    model = model_of(first)
    first.process.kill()
    first.process.wait()
    assert model is not None
    assert model.wait(10) is not None or not model.is_running()  # no model outlives its service
    with running(tmp_path, batch_size=2) as second:
        assert wait_until_ended(second, ids, 60) == {"completed": 8}


@pytest.mark.long
def test_a_poisonous_photograph_ends_failed_and_the_others_completed(
    tmp_path: Path, params: Params, photos: list[Image.Image]
) -> None:
    poison = photos[0].copy()
    poison.paste((255, 255, 255), (0, 0, 64, 64))
    told = asyncio.run(_poisoned(tmp_path, params, [poison, *photos[1:4]]))
    assert told[0]["status"] == "failed"
    assert "the model process ended" in told[0]["error"]
    assert [row["status"] for row in told[1:]] == ["completed"] * 3


async def _poisoned(
    tmp_path: Path, params: Params, photos: list[Image.Image]
) -> list[dict[str, Any]]:
    serve = params.serve.model_copy(update={"batch_size": 4})
    params = params.model_copy(update={"serve": serve})
    size = (params.image.min_pixels, params.image.max_pixels)
    setup = WorkerConfig(str(ROOT / params.base.source), size, 4, serve.max_new_tokens)
    engine = LocalEngine(setup, (sys.executable, "-m", "tests.poisoned_model"))
    settings = ServiceSettings(params, None, str(tmp_path / "jobs.db"), tmp_path, "")
    service = Service(settings, engine)
    async with service.lifespan_context():
        ids = []
        for i, photo in enumerate(photos):
            taken = service.intake.save(jpeg(photo), "a.jpg")
            row = {
                "id": f"job-{i}",
                "filename": taken.filename,
                "advisor": "ansel",
                "mode": "baseline",
                "status": "queued",
                "kind": "upload",
            }
            await service.work.call_store(service.store.add, row)
            ids.append(f"job-{i}")
        service.work.notify_queued()
        direct = {
            "id": "direct",
            "filename": "uploads/x",
            "advisor": "ansel",
            "mode": "baseline",
            "status": "analyzing",
            "kind": "direct",
        }
        row, _ = await service.work.call_store(service.store.add, direct)
        seen = resize_to_fit(photos[0], *size)
        with pytest.raises(EngineFault, match="the model process ended"):
            await service.work.run_direct(row, seen)
        for _ in range(600):
            found = [service.store.get(id) for id in ids]
            if all(one and one["status"] in ("failed", "completed") for one in found):
                break
            await asyncio.sleep(0.1)
        failed = service.store.get("direct")
        assert failed
        assert failed["status"] == "failed"
        return [one for one in found if one]


def test_an_adapter_is_replaced_damaged_and_taken_away_without_dropping_a_request(
    tmp_path: Path, tiny: Any, params: Params, shots: list[bytes]
) -> None:
    shelf = tmp_path / "adapters"
    versions = [make_adapter(tiny, tmp_path / f"v{i}", "ansel", params, seed=i) for i in (1, 2)]
    shutil.copytree(versions[0], shelf / "ansel")
    with running(tmp_path, "--lora_path", shelf, "--model_mode", "ab_test") as service:
        stop_at = time.monotonic() + 120
        seen: list[dict[str, Any]] = []

        def ask_on(number: int) -> None:
            while time.monotonic() < stop_at:
                told = analyze(service, shots[number], mode="lora")
                assert told.status_code == 200, told.text
                seen.append(told.json())

        def until(what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            with service.client() as client:
                for _ in range(200):
                    status: dict[str, Any] = client.get("/model-status").json()
                    found = {a["advisor"]: a for a in status["adapters"]}.get("ansel", {})
                    if what(found):
                        return found
                    time.sleep(0.1)
            raise AssertionError(f"it did not come: {found}")

        def answered_by(version: str | None) -> None:
            before, deadline = len(seen), time.monotonic() + 30
            while not any(one["adapter_version"] == version for one in seen[before:]):
                assert time.monotonic() < deadline, version
                time.sleep(0.05)

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask_on, i) for i in range(3)]
            old = until(lambda a: bool(a.get("version")))["version"]
            weights = shelf / "ansel/adapter_model.safetensors"
            whole = (versions[1] / weights.name).read_bytes()
            weights.write_bytes(whole[: len(whole) // 2])  # a copy that is not finished
            fault = until(lambda a: bool(a["fault"]))
            assert fault["version"] == old
            assert "cannot be read" in fault["fault"]
            weights.write_bytes(whole)
            new = until(lambda a: not a["fault"] and a["version"] != old)["version"]
            answered_by(new)
            shutil.rmtree(shelf / "ansel")
            until(lambda a: not a)
            answered_by(None)
            shutil.copytree(versions[0], shelf / "ansel")
            assert until(lambda a: bool(a.get("version")))["version"] == old
            answered_by(old)
            stop_at = 0.0
            for task in asking:
                task.result()
    used = {one["adapter_version"] for one in seen}
    assert used == {old, new, None}
    for one in seen:
        assert one["fallback_occurred"] == (one["adapter_version"] is None)
        assert one["model_used"] == ("base" if one["fallback_occurred"] else "fine_tuned")
        assert one["fallback_reason"] or not one["fallback_occurred"]


def test_fine_tuned_does_not_start_with_a_damaged_adapter(
    tmp_path: Path, tiny: Any, params: Params
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    service = start(tmp_path, "--lora_path", folder, "--model_mode", "fine_tuned")
    assert service.process.wait(60) == 1
    last = service.log().splitlines()[-1]
    assert last.startswith("error: model_mode fine_tuned: ")
    assert "cannot be read" in last
    assert "Traceback" not in service.log()


def test_a_full_disk_is_told_and_survived(tmp_path: Path, shots: list[bytes]) -> None:
    with running(tmp_path) as service:
        assert analyze(service, shots[0]).status_code == 200
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, before[1]))
        told = [analyze(service, shots[i]) for i in range(3)]
        assert [one.status_code for one in told] == [503] * 3
        assert all(
            "saved" in one.json()["error"] or "database" in one.json()["error"] for one in told
        )
        with service.client() as client:
            assert client.get("/health").status_code == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        assert analyze(service, shots[0]).status_code == 200
        assert "analyzing" not in {row["status"] for row in rows(service)}
    leftovers = [p.name for p in (tmp_path / "service/uploads").iterdir() if p.name[0] == "."]
    assert leftovers == []


@pytest.mark.long
def test_a_database_that_is_locked_for_ten_seconds_holds_up_but_loses_nothing(
    tmp_path: Path, shots: list[bytes]
) -> None:
    with running(tmp_path) as service:
        other = sqlite3.connect(service.db, isolation_level=None)
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(analyze, service, shot) for shot in shots[:3]]
            time.sleep(0.3)
            other.execute("BEGIN EXCLUSIVE")
            asked += [pool.submit(analyze, service, shot) for shot in shots[3:]]
            started = time.monotonic()
            with service.client() as client:
                while time.monotonic() - started < 10:
                    began = time.monotonic()
                    assert client.get("/health").status_code == 200
                    assert time.monotonic() - began < 2
                    time.sleep(0.5)
            other.execute("COMMIT")
            assert [one.result().status_code for one in asked] == [200] * 6
        other.close()
        assert {row["status"] for row in rows(service)} == {"completed"}


def test_sigterm_finishes_what_runs_and_leaves_the_queue_for_the_next(
    tmp_path: Path, shots: list[bytes]
) -> None:
    service = start(tmp_path, batch_size=2, drain_seconds=20)
    wait_for_ready(service)
    ids = upload(service, shots, 12)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(analyze, service, shot) for shot in shots[:4]]
        time.sleep(0.5)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(25) == 0
        assert time.monotonic() - started < 20
        assert [one.result().status_code for one in asked] == [200] * 4
    states = Counter(row["status"] for row in rows(service) if row["id"] in ids)
    assert set(states) == {"completed", "queued"}
    with running(tmp_path, batch_size=8) as again:
        assert wait_until_ended(again, ids, 60) == {"completed": 12}


def test_a_client_that_goes_away_frees_its_place(tmp_path: Path, shots: list[bytes]) -> None:
    with running(tmp_path, batch_size=1) as service:
        with service.client() as client:
            file = {"image": ("a.jpg", shots[0])}
            with client.stream("POST", "/analyze_stream", files=file) as answer:
                for line in answer.iter_lines():
                    if "json_token" in line:
                        break
        started = time.monotonic()
        assert analyze(service, shots[1]).status_code == 200
        assert time.monotonic() - started < 5
        told = {row["status"]: row["error"] for row in rows(service)}
        assert told["failed"] == "the client went away"
        with service.client() as client:
            assert client.get("/model-status").json()["busy"] == 0


def test_a_critique_that_takes_too_long_is_given_up(tmp_path: Path, shots: list[bytes]) -> None:
    with running(tmp_path, request_timeout_seconds=0.05) as service:
        told = analyze(service, shots[0])
        assert told.status_code == 504
        assert "not done after 0.05 s" in told.json()["error"]
        ids = upload(service, shots, 1)
        assert wait_until_ended(service, ids, 30) == {"failed": 1}  # after its tries


def test_a_share_is_answered_by_the_other_arm_too(
    tmp_path: Path, tiny: Any, params: Params, shots: list[bytes]
) -> None:
    folder = make_adapter(tiny, tmp_path / "ansel", "ansel", params)
    with running(tmp_path, "--lora_path", folder, shadow_share=1.0) as service:
        first = analyze(service, shots[0], mode="lora").json()
        second = analyze(service, shots[1], mode="base").json()
        ids = [row["id"] for row in rows(service)]
        for _ in range(100):
            shadows = {r["pair_of"]: r for r in rows(service) if r["kind"] == "shadow"}
            if len(shadows) == 2 and all(r["status"] == "completed" for r in shadows.values()):
                break
            time.sleep(0.1)
        assert shadows[first["job_id"]]["model_used"] == "base"
        assert shadows[second["job_id"]]["model_used"] == "fine_tuned"
        assert set(shadows) <= set(ids)
        assert len(rows(service)) == 4  # a shadow has no shadow


def test_the_same_key_is_answered_once(tmp_path: Path, shots: list[bytes]) -> None:
    with running(tmp_path) as service, service.client() as client:

        def ask() -> Any:
            return client.post(
                "/analyze", files={"image": ("a.jpg", shots[0])}, headers={"Idempotency-Key": "k"}
            ).json()

        with ThreadPoolExecutor(4) as pool:
            told = [one.result() for one in [pool.submit(ask) for _ in range(4)]]
        assert len({one["job_id"] for one in told}) == 1
        assert len({one["full_response"] for one in told}) == 1
        assert len(rows(service)) == 1
        assert len(list((tmp_path / "service/uploads").iterdir())) == 1


@pytest.mark.long
def test_memory_is_flat_under_load(tmp_path: Path, shots: list[bytes]) -> None:
    with running(tmp_path, batch_size=8) as service:
        model = model_of(service)
        assert model

        def load(count: int) -> None:
            with ThreadPoolExecutor(8) as pool:
                for told in pool.map(lambda i: analyze(service, shots[i % 6]), range(count)):
                    assert told.status_code == 200

        load(48)
        warm = [p.memory_info().rss for p in (psutil.Process(service.process.pid), model)]
        load(48)
        after = [p.memory_info().rss for p in (psutil.Process(service.process.pid), model)]
    for before, now in zip(warm, after, strict=True):
        assert now < 1.15 * before  # the long run: benchmarks/serve.py --soak
