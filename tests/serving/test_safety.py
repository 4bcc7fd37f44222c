"""Who may ask, how often, and what is told to whom: names, origins, keys, limits, headers, logs."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mondrian.cli.serve import parse_args
from mondrian.core.errors import ParamsError
from mondrian.serving.app import create_app
from mondrian.serving.engines.base import Completion, CritiqueRequest, EngineState
from mondrian.serving.http.security import SECURITY_HEADERS, session_token
from mondrian.serving.service import Service
from mondrian.serving.settings import API_KEY_VARIABLE, load_settings
from tests.conftest import ROOT
from tests.odd_files import encoded
from tests.service_process import running
from tests.serving.test_faults import model_of

SECRET = "a-key-of-more-than-16-characters"
HERE = "http://127.0.0.1:5100"


def test_other_machines_need_a_key_or_an_open_word_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_as(key: str, *flags: str) -> Any:
        monkeypatch.setenv(API_KEY_VARIABLE, key)
        return load_settings(parse_args(["--params", str(ROOT / "params.yaml"), *flags]))

    assert not set_as("", "--host", "127.0.0.1").warnings
    assert not set_as(SECRET, "--host", "0.0.0.0").warnings
    for host in ("0.0.0.0", "::", "192.168.1.20", "studio.local"):
        with pytest.raises(ParamsError, match=f"set {API_KEY_VARIABLE}") as told:
            set_as("", "--host", host)
        assert "\n" not in str(told.value)
        assert "requires no key" in set_as("", "--host", host, "--open_network").warnings[0]
    with pytest.raises(ParamsError, match="16 or more"):
        set_as("short", "--host", "0.0.0.0")
    with pytest.raises(ParamsError, match="--allow_origin is"):
        set_as("", "--allow_origin", "*")


class Nobody:
    """An engine that is ready and never answers."""

    def __init__(self) -> None:
        self.state = EngineState("ready", model="nobody")

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def critique(self, question: CritiqueRequest) -> Completion:
        raise AssertionError


@contextmanager
def here(tmp_path: Path, *flags: str) -> Iterator[tuple[TestClient, Service]]:
    """The whole application in this process, without a model."""
    told = ["--params", str(ROOT / "params.yaml"), "--db", str(tmp_path / "jobs.db"), *flags]
    service = Service(load_settings(parse_args([*told, "--data", str(tmp_path)])), Nobody())
    with TestClient(create_app(service), HERE, raise_server_exceptions=False) as client:
        yield client, service


def test_a_page_elsewhere_reads_answers_only_where_it_was_let(tmp_path: Path) -> None:
    lab, evil = {"origin": "https://lab.example"}, {"origin": "https://evil.example"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    with here(tmp_path) as (client, _):
        told = client.get("/advisors", headers=lab)
        assert "access-control-allow-origin" not in told.headers
        assert client.options("/analyze", headers=lab | asks).status_code >= 400
    with here(tmp_path, "--allow_origin", "https://lab.example") as (client, _):
        told = client.get("/advisors", headers=lab)
        assert told.headers["access-control-allow-origin"] == "https://lab.example"
        assert "access-control-allow-credentials" not in told.headers
        assert client.options("/analyze", headers=lab | asks).status_code == 200
        assert "access-control-allow-origin" not in client.get("/advisors", headers=evil).headers
        assert client.options("/analyze", headers=evil | asks).status_code == 400


def test_an_unforeseen_fault_is_told_with_the_id_of_its_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with here(tmp_path) as (client, service):
        monkeypatch.setattr(service.store, "get", lambda id: 1 / 0)
        told = client.get("/status/x", headers={"x-request-id": "mine"})
    assert told.status_code == 500
    assert list(told.json()) == ["error"]
    assert "ZeroDivisionError" not in told.text
    assert told.headers["x-request-id"] == "mine"
    assert told.headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
def test_the_command_refuses_to_serve_other_machines_without_a_key() -> None:
    command = [sys.executable, str(ROOT / "mondrian/ai_advisor_service.py"), "--host", "0.0.0.0"]
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.startswith("error: --host 0.0.0.0 can be reached by other machines")
    assert len(done.stderr.strip().split("\n")) == 1


@pytest.mark.slow
def test_an_open_network_is_warned_of_at_each_start(tmp_path: Path) -> None:
    for _ in range(2):
        with running(tmp_path, "--host", "0.0.0.0", "--open_network", ready=False) as service:
            warnings = [line for line in service.lines() if line["level"] == "warning"]
        assert "everyone who reaches 0.0.0.0 may use this service" in warnings[0]["message"]


@pytest.mark.slow
def test_neither_key_nor_photograph_is_in_the_log_and_each_line_has_its_request(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    photo, let = encoded(photos[0], "JPEG"), {"authorization": f"Bearer {SECRET}"}
    files, env = {"image": ("lake.jpg", photo)}, {API_KEY_VARIABLE: SECRET}
    with running(tmp_path, env=env) as service, service.client() as client:
        refused = client.post("/analyze", files=files, headers={"x-api-key": SECRET + "x"})
        assert refused.status_code == 401
        assert client.get("/openapi.json").status_code == 401
        assert client.get("/openapi.json", headers=let).json()["paths"]
        told = client.post("/analyze", files=files, headers={**let, "x-request-id": "mine-1"})
        assert (told.status_code, told.headers["x-request-id"]) == (200, "mine-1")
        odd = client.get("/jobs", headers={**let, "x-request-id": "<script>"})
        assert odd.headers["x-request-id"] != "<script>"
        login = client.post("/login", data={"key": SECRET}, headers={"origin": service.url})
        assert login.status_code == 303
        assert "HttpOnly" in login.headers["set-cookie"]
        assert client.get("/jobs").status_code == 200  # by the cookie that it has now
        answers = [refused, told, odd, login, client.get("/health"), client.get("/nothing")]
    for one in answers:
        assert one.headers["x-request-id"]
        assert {name: one.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    lines = [json.loads(line) for line in service.log().strip().split("\n")]
    asked = [line for line in lines if "path" in line]
    assert {line["request"] for line in asked} >= {a.headers["x-request-id"] for a in answers[:4]}
    assert next(line for line in asked if line["request"] == "mine-1")["status"] == 200
    for trace in (SECRET, session_token(SECRET), base64.b64encode(photo[:60]).decode(), "JFIF"):
        assert trace not in service.log()


@pytest.mark.slow
def test_who_comes_when_all_is_full_is_told_when_to_come_again(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    files = {"image": ("lake.jpg", encoded(photos[0], "JPEG"))}

    with running(tmp_path, batch_size=1, waiting=1, queued=1) as service:

        def post(path: str) -> httpx2.Response:
            with service.client() as client:
                return client.post(path, files=files)

        model = model_of(service)
        assert model
        with ThreadPoolExecutor(8) as pool:
            model.send_signal(signal.SIGSTOP)  # nobody's place is free again before all have come
            asked = [pool.submit(post, "/analyze") for _ in range(8)]
            deadline = time.monotonic() + 30
            while sum(one.done() for one in asked) < 6 and time.monotonic() < deadline:
                time.sleep(0.05)
            model.send_signal(signal.SIGCONT)
            direct = [one.result() for one in asked]
        assert {one.status_code for one in direct} == {200, 429}
        assert sum(one.status_code == 200 for one in direct) <= 2  # one place, and one in line
        queued: list[httpx2.Response] = []
        while len(queued) < 10 and (not queued or queued[-1].status_code == 201):
            queued.append(post("/upload"))
        for told in (next(one for one in direct if one.status_code == 429), queued[-1]):
            assert told.status_code == 429
            assert int(told.headers["retry-after"]) >= 1
            assert told.json()["error"].startswith("too many critiques are waiting")
        deadline = time.monotonic() + 30
        while post("/analyze").status_code != 200:  # and then it goes on
            assert time.monotonic() < deadline
            time.sleep(0.2)
