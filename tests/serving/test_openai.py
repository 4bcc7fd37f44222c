"""Another server as the engine, for real: mlx_vlm.server on mondrian-tiny, base and adapter."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.model.export import merge
from tests.conftest import ROOT
from tests.service_process import Running, end, make_adapter, running
from tests.serving.test_faults import analyze, jpeg, rows, upload, wait_until_ended

pytestmark = pytest.mark.slow


@dataclass
class Server:
    url: str
    base: str
    adapted: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Any, params: Params) -> Iterator[Server]:
    """It serves two folders: mondrian-tiny, and mondrian-tiny with an adapter merged into it."""
    shelf = tmp_path_factory.mktemp("shelf")
    base = str(ROOT / "models/base/mondrian-tiny")
    folder = make_adapter(tiny, shelf / "lora", "ansel", params, size=0.01)
    merge(base, folder, shelf / "models/tiny-ansel")
    shutil.copytree(base, shelf / "models/tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = shelf / "models"
    script = str(ROOT / "benchmarks/systems/mlx_vlm_server.py")
    command = [
        sys.executable,
        script,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--model",
        str(models / "tiny"),
        "--max-tokens",
        "700",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLX_VLM_MODEL_PATHS": str(models)}
    with (shelf / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=ROOT)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        _wait(url, process, shelf / "log")
        yield Server(url, str(models / "tiny"), str(models / "tiny-ansel"))
    finally:
        end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(f"{url}/models", trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def flags(server: Server, **models: str) -> list[str]:
    told = ["--engine", "openai", "--engine_url", server.url]
    for name, model in models.items():
        told += ["--engine_model", f"{name}={model}"]
    return told


def test_base_and_adapter_of_another_server_answer_with_the_same_jobs_and_tests(
    server: Server, tmp_path: Path, photos: list[Image.Image]
) -> None:
    shots = [jpeg(photo) for photo in photos]
    told = flags(server, base=server.base, ansel=server.adapted)
    more: dict[str, Any] = {"constrained": False, "batch_size": 1}  # it loads one model at a time
    with running(tmp_path, *told, "--model_mode", "ab_test", **more) as service:
        base = analyze(service, shots[0], mode="base").json()
        assert base["model_used"] == "base"
        assert len(base["analysis"]["dimensions"]) == 7
        adapted = analyze(service, shots[0], mode="lora").json()
        assert adapted["model_used"] == "fine_tuned"
        assert adapted["adapter_version"] == server.adapted
        assert not adapted["fallback_occurred"]
        other = analyze(service, shots[1], mode="lora", advisor="okeefe").json()
        assert other["fallback_occurred"]
        assert "no adapter of okeefe serves" in other["fallback_reason"]
        assert other["model_used"] == "base"
        ids = upload(service, shots, 2)
        ended = wait_until_ended(service, ids, 90)
        assert ended == {"completed": 2}
        arms = {row["model_used"] for row in rows(service) if row["id"] in ids}
        assert arms <= {"ab_test_base", "ab_test_fine_tuned"}


def test_a_server_that_cannot_hold_to_a_schema_is_told_in_one_line(
    server: Server, tmp_path: Path, photos: list[Image.Image]
) -> None:
    with running(tmp_path, *flags(server, base=server.base)) as service:
        told = analyze(service, jpeg(photos[0]))
        if told.status_code != 200:  # on Metal it can
            assert told.status_code == 500
            assert "Metal" in told.json()["error"]


def told_while_loading(service: Running, part: str) -> Any:
    """What /health says, once its message has a part in it or five seconds are over."""
    with service.client() as client:
        for _ in range(50):
            told = client.get("/health").json()
            if part in told["message"]:
                break
            time.sleep(0.1)
    return told


def test_a_server_that_is_not_there_or_lacks_the_model_is_waited_for(tmp_path: Path) -> None:
    nowhere = Server("http://127.0.0.1:1/v1", "x", "x")
    with running(tmp_path, *flags(nowhere, base="x"), ready=False) as service:
        told = told_while_loading(service, "does not answer")
        assert told["status"] == "loading"
        assert "http://127.0.0.1:1/v1 does not answer" in told["message"]


def test_a_model_that_the_server_lacks_is_named(server: Server, tmp_path: Path) -> None:
    with running(tmp_path, *flags(server, base="no-such-model"), ready=False) as service:
        told = told_while_loading(service, "no model")
        assert "has no model no-such-model (it has " in told["message"]
