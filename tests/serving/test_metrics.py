"""/metrics and /ready: what an operator sees of queue, requests, process and storage."""

import asyncio
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from mondrian import __version__
from mondrian.core.params import Params
from mondrian.serving.app import create_app
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings
from tests.service_process import run_service
from tests.serving.idle_service import IdleEngine
from tests.serving.service_jobs import analyze, encode_jpeg
from tests.storage.job_rows import new_job

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read_samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def service(tmp_path: Path, params: Params) -> Service:
    settings = ServiceSettings(params, None, str(tmp_path / "jobs.db"), tmp_path, "")
    return Service(settings, IdleEngine())


def test_requests_are_counted_by_route_and_status(service: Service) -> None:
    with TestClient(create_app(service), base_url="http://localhost") as client:
        service.store.add(new_job(id="a", status="pending"))
        service.store.add(new_job(id="b", kind="direct"))  # which no runner claims
        assert client.get("/status/a").status_code == 200
        for path in ("/status/none", "/status/others"):
            assert client.get(path).status_code == 404
        assert client.get("/no/such/path").status_code == 404
        assert client.request("BREW", "/health").status_code in (400, 403, 405)
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
        samples = read_samples(client.get("/metrics").text)
    requests = "mondrian_http_requests_total"
    assert value(samples, requests, method="GET", route="/status/{id}", status="200") == 1
    assert value(samples, requests, method="GET", route="/status/{id}", status="404") == 2
    assert value(samples, requests, method="GET", route="none", status="404") == 1
    assert value(samples, requests, method="GET", route="none", status="400") == 1
    assert not any("BREW" in str(labels) for _, labels in samples)
    assert value(samples, "mondrian_http_request_seconds_count", route="/status/{id}") == 3
    assert value(samples, "mondrian_queued_jobs") == 1
    assert value(samples, "process_resident_memory_bytes") > 10**7
    info = {name: dict(labels) for name, labels in samples}
    assert info["mondrian_build_info"]["version"] == __version__
    assert info["mondrian_build_info"]["base"] == "idle"


def test_head_is_counted_apart_from_get(service: Service) -> None:
    with TestClient(create_app(service), base_url="http://localhost") as client:
        service.store.add(new_job(id="a", status="pending"))
        assert client.head("/status/a").status_code == 200
        assert client.head("/status/none").status_code == 404
        assert client.head("/no/such/path").status_code == 404
        samples = read_samples(client.get("/metrics").text)
    requests = "mondrian_http_requests_total"
    assert value(samples, requests, method="HEAD", route="/status/{id}", status="200") == 1
    assert value(samples, requests, method="HEAD", route="/status/{id}", status="404") == 1
    assert value(samples, requests, method="HEAD", route="none", status="404") == 1
    assert not any(dict(labels).get("method") == "GET" for _, labels in samples)


def test_only_a_request_with_the_key_gets_the_folder_that_is_not_ready(
    tmp_path: Path, params: Params
) -> None:
    key = "a-key-of-more-than-16-characters"
    folder = tmp_path / "uploads"
    settings = ServiceSettings(params, tmp_path / "loras", str(tmp_path / "jobs.db"), folder, key)
    service = Service(settings, IdleEngine())
    with TestClient(create_app(service), base_url="http://localhost") as client:
        service.engine.state.adapters_scanned = True
        assert client.get("/health").json()["lora_path"] is None
        service.uploads.folder = tmp_path / "unmounted"
        responses = [client.get("/ready", headers=h) for h in ({}, {"x-api-key": key})]
        service.engine.state.status, service.engine.state.message = "error", f"no {tmp_path}"
        failed = [client.get("/health", headers=h) for h in ({}, {"x-api-key": key})]
    assert [response.status_code for response in (*responses, *failed)] == [503] * 4
    assert responses[0].json()["uploads"] == "not ready"
    assert "unmounted" in responses[1].json()["uploads"]
    assert [str(tmp_path) in response.text for response in (*responses, *failed)] == [
        *(False, True),
        *(False, True),
    ]


def test_ready_says_which_part_is_not(service: Service, tmp_path: Path) -> None:
    with TestClient(create_app(service), base_url="http://localhost") as client:
        service.engine.state.adapters_scanned = True
        response = client.get("/ready")
        parts = {"model": "ready", "database": "ready", "uploads": "ready"}
        assert (response.status_code, response.json()) == (200, {"ready": True, **parts})
        service.uploads.folder = tmp_path / "unmounted"
        service._last_fault_check = 0.0
        response = client.get("/ready")
        assert response.status_code == 503
        assert "No such file or directory" in response.json()["uploads"]
        assert response.json()["database"] == "ready"
        service.uploads.folder = tmp_path
        service._last_fault_check = 0.0
        service.engine.state.status, service.engine.state.message = "loading", "first token"
        response = client.get("/ready").json()
        assert response == {"ready": False, **parts, "model": "first token"}


def test_the_database_is_checked_at_most_once_a_second(service: Service) -> None:
    checks: list[str] = []

    async def find_fault() -> str:
        checks.append("checked")
        return ""

    service._find_database_fault = find_fault  # type: ignore[method-assign]

    async def check_often() -> None:
        await asyncio.gather(*(service.find_faults() for _ in range(20)))

    asyncio.run(check_often())
    assert len(checks) == 1


@pytest.mark.slow
def test_queue_and_service_time_are_apart_and_the_base_has_its_hash(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    with run_service(tmp_path) as running, running.client() as client:
        assert analyze(running, encode_jpeg(photos[0])).status_code == 200
        samples = read_samples(client.get("/metrics").text)
    assert value(samples, "mondrian_queue_seconds_count", kind="direct") == 1
    assert value(samples, "mondrian_service_seconds_count", kind="direct") == 1
    queue_seconds = value(samples, "mondrian_queue_seconds_sum", kind="direct")
    assert queue_seconds < value(samples, "mondrian_service_seconds_sum", kind="direct")
    info = {name: dict(labels) for name, labels in samples}
    assert len(info["mondrian_build_info"]["base_sha256"]) == 64
