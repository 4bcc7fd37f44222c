"""Start and end of the service: its log, its exit, and its answers while it drains."""

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.service_process import (
    ServiceProcess,
    model_process,
    run_service,
    start_service,
    wait_for_ready,
)
from tests.serving.hostile_requests import FORM, connected, head
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow
SLOW_DECODER_SECONDS = 60  # time limit of a large photo, in uploads.py


def upload(service: ServiceProcess, photo: bytes, **fields: str) -> str:
    with service.client() as client:
        response = client.post("/upload", files={"image": ("a.jpg", photo)}, data=fields)
    assert response.status_code == 201, response.text
    return str(response.json()["job_id"])


def decoders(service: ServiceProcess) -> list[psutil.Process]:
    children = psutil.Process(service.process.pid).children()
    return [child for child in children if "photo_decoder" in " ".join(child.cmdline())]


def messages(service: ServiceProcess) -> list[str]:
    return [line["message"] for line in service.lines()]


def test_the_log_says_once_where_the_service_is_ready(tmp_path: Path) -> None:
    with run_service(tmp_path) as service:
        wait_for(lambda: f"ready at {service.url}" in messages(service))
        time.sleep(0.5)
        assert [text for text in messages(service) if "ready at" in text] == [
            f"ready at {service.url}"
        ]


def test_a_taken_port_is_reported_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        database = tmp_path / "jobs.db"
        command = [sys.executable, "-m", "mondrian", "serve", "--port", str(port)]
        process = subprocess.run(
            [*command, "--db", str(database)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert process.returncode == 1
    expected = f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; "
    assert process.stderr.startswith(expected)
    assert process.stderr.count("\n") == 1
    assert not database.exists()


def test_a_draining_service_still_listens_until_its_work_is_done(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    photo = encode(photos[0], "JPEG")
    with run_service(tmp_path, drain_seconds=PATIENCE) as service, service.client() as client:
        model = model_process(service)
        assert model
        model.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.post, "/analyze", files={"image": ("a.jpg", photo)})
            wait_for(lambda: client.get("/model-status").json()["busy"] == 1)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: client.get("/health").status_code == 503)
            with service.client() as newcomer:  # a new connection
                assert newcomer.get("/health").json()["status"] == "draining"
                refused = newcomer.post("/upload", files={"image": ("a.jpg", photo)})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert not answer.done()
            model.send_signal(signal.SIGCONT)
            assert answer.result().status_code == 200
        assert service.process.wait(PATIENCE) == 0
        assert "Traceback" not in service.log()


def test_open_streams_silent_sockets_and_decoding_do_not_delay_the_end(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    service = start_service(tmp_path, drain_seconds=3)
    wait_for_ready(service)
    id = upload(service, encode(photos[0], "JPEG"), auto_analyze="false")  # it stays pending
    stream = f"GET /stream/{id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    form = head(f"Content-Length: {len(FORM) + 5000}") + FORM
    large = encode(photos[0].resize((222, 120_000)), "PNG")
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        for content in (b"", b"GET / HT", stream, form) * 5:
            stack.enter_context(connected(service, content))
        before = {decoder.pid for decoder in decoders(service)}
        client = stack.enter_context(service.client())
        answer = pool.submit(client.post, "/upload", files={"image": ("large.png", large)})
        decoder = wait_for(
            lambda: next((d for d in decoders(service) if d.pid not in before), None)
        )
        decoder.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0
        assert time.monotonic() - started < SLOW_DECODER_SECONDS
        assert answer.result().status_code == 503
        assert answer.result().json() == {"error": "the service is stopping"}
        assert not decoder.is_running()
    assert "Traceback" not in service.log()


def test_a_second_signal_ends_the_service_at_once(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    service = start_service(tmp_path, drain_seconds=PATIENCE)
    wait_for_ready(service)
    model = model_process(service)
    assert model
    model.send_signal(signal.SIGSTOP)
    id = upload(service, encode(photos[0], "JPEG"))
    with service.client() as client:
        wait_for(lambda: client.get(f"/status/{id}").json()["status"] == "analyzing")
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/health").status_code == 503)
        service.process.send_signal(signal.SIGINT)
    assert service.process.wait(PATIENCE) == 128 + signal.SIGINT
    wait_for(lambda: not model.is_running())
    with run_service(tmp_path) as restarted, restarted.client() as client:
        wait_for(lambda: client.get(f"/status/{id}").json()["status"] == "completed")
