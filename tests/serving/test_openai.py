"""A real OpenAI-compatible server as the engine: mlx_vlm.server with mondrian-tiny."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.model.export import export_merged
from tests.conftest import ROOT
from tests.service_process import ServiceProcess, end_process, make_adapter, run_service
from tests.serving.service_jobs import analyze, encode_jpeg, job_rows, upload, wait_until_ended
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@dataclass
class Server:
    url: str
    base: str
    adapted: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Any, params: Params) -> Iterator[Server]:
    """A server of two models: mondrian-tiny, and mondrian-tiny with a merged adapter."""
    folder = tmp_path_factory.mktemp("models")
    base = str(ROOT / "models/base/mondrian-tiny")
    adapter = make_adapter(tiny, folder / "lora", "ansel", params, size=0.01)
    models = folder / "models"
    export_merged(base, adapter, models / "tiny-ansel")
    shutil.copytree(base, models / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(ROOT / "benchmarks/systems/mlx_vlm_server.py")
    address = ["--host", "127.0.0.1", "--port", str(port)]
    model = ["--model", str(models / "tiny"), "--max-tokens", "700"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLX_VLM_MODEL_PATHS": str(models)}
    with (folder / "log").open("wb") as log:
        command = [sys.executable, script, *address, *model]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=ROOT)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait_for_server(url, process, folder / "log")
        yield Server(url, str(models / "tiny"), str(models / "tiny-ansel"))
    finally:
        end_process(process)


def _wait_for_server(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{url}/models", trust_env=False).status_code == 200
        return False

    wait_for(answers, log.read_text)


def flags(server: Server, **models: str) -> list[str]:
    engine = ["--engine", "openai", "--engine_url", server.url]
    for name, model in models.items():
        engine += ["--engine_model", f"{name}={model}"]
    return engine


def test_base_and_adapter_of_another_server_answer_requests_and_jobs_of_an_ab_test(
    server: Server, tmp_path: Path, photos: list[Image.Image]
) -> None:
    jpegs = [encode_jpeg(photo) for photo in photos]
    engine = flags(server, base=server.base, ansel=server.adapted)
    serve: dict[str, Any] = {"constrained": False, "batch_size": 1}  # it loads one model at a time
    with run_service(tmp_path, *engine, "--model_mode", "ab_test", **serve) as service:
        base = analyze(service, jpegs[0], mode="base").json()
        assert base["model_used"] == "base"
        assert len(base["analysis"]["dimensions"]) == 7
        adapted = analyze(service, jpegs[0], mode="lora").json()
        assert adapted["model_used"] == "fine_tuned"
        assert adapted["adapter_version"] == server.adapted
        assert not adapted["fallback_occurred"]
        fallback = analyze(service, jpegs[1], mode="lora", advisor="okeefe").json()
        assert fallback["fallback_occurred"]
        assert "no adapter of okeefe serves" in fallback["fallback_reason"]
        assert fallback["model_used"] == "base"
        ids = upload(service, jpegs, 2)
        assert wait_until_ended(service, ids) == {"completed": 2}
        arms = {row["model_used"] for row in job_rows(service) if row["id"] in ids}
        assert arms <= {"ab_test_base", "ab_test_fine_tuned"}


def test_a_server_without_constrained_decoding_is_a_clear_error(
    server: Server, tmp_path: Path, photos: list[Image.Image]
) -> None:
    with run_service(tmp_path, *flags(server, base=server.base)) as service:
        response = analyze(service, encode_jpeg(photos[0]))
        if response.status_code != 200:  # on Metal it can
            assert response.status_code == 500
            assert "Metal" in response.json()["error"]


def wait_for_health(service: ServiceProcess, text: str) -> Any:
    """Return /health once its message contains a text."""

    def find_health() -> Any:
        health = client.get("/health").json()
        return health if text in health["message"] else None

    with service.client() as client:
        return wait_for(find_health, service.log)


def test_a_server_that_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    absent = Server("http://127.0.0.1:1/v1", "x", "x")
    with run_service(tmp_path, *flags(absent, base="x"), ready=False) as service:
        health = wait_for_health(service, "does not answer")
        assert health["status"] == "loading"
        assert "http://127.0.0.1:1/v1 does not answer" in health["message"]


def test_a_model_that_the_server_lacks_is_named(server: Server, tmp_path: Path) -> None:
    with run_service(tmp_path, *flags(server, base="no-such-model"), ready=False) as service:
        health = wait_for_health(service, "no model")
        assert "has no model no-such-model (it has " in health["message"]
