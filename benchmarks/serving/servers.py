"""Server processes that run for the time of a measurement."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx2 as httpx
import psutil

from benchmarks.measurement import ROOT
from benchmarks.serving.deployment import Deployment
from mondrian.core.errors import MondrianError

PORTS = range(5141, 5160)
_START_TIMEOUT = 180.0  # seconds until a server must be ready


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process

    @property
    def model_process(self) -> psutil.Process:
        """The model process of mondrian's service."""
        process: psutil.Process = self.process.children()[0]
        return process


def run_mondrian(deployment: Deployment, *flags: str) -> AbstractContextManager[Server]:
    """Run mondrian/ai_advisor_service.py on a free port."""
    port, data = free_port(), deployment.folder / "data"
    command = [
        sys.executable,
        str(ROOT / "mondrian/ai_advisor_service.py"),
        *("--params", str(deployment.params_file)),
        *("--port", str(port)),
        *("--data", str(data)),
        *("--db", str(data / "jobs.db")),
        *flags,
    ]
    return _run(command, port, "/ready", deployment.folder / "service.log")


def run_mlx_vlm(base: Path, max_tokens: int, log: Path) -> AbstractContextManager[Server]:
    """Run mlx_vlm.server with this project's BLAS and malloc; it is 25 times slower without.

    The settings are the fastest of those tried: one BLAS thread, float32 weights, no prefix cache
    (it has none for Qwen3-VL) and no limit of the batch.
    """
    port = free_port()
    command = [
        sys.executable,
        str(ROOT / "benchmarks/systems/mlx_vlm_server.py"),
        *("--model", str(base)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--max-tokens", str(max_tokens)),
        *("--log-level", "WARNING"),
    ]
    env = {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return _run(command, port, "/health", log, env)


def free_port() -> int:
    """Return the first of PORTS that is not in use."""
    for port in PORTS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return port
    raise MondrianError(f"ports {PORTS[0]} to {PORTS[-1]} are all in use; free one of them")


@contextmanager
def _run(
    command: list[str], port: int, ready_path: str, log: Path, env: dict[str, str] | None = None
) -> Iterator[Server]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | (env or {}), cwd=ROOT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url + ready_path, log)
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = monotonic() + _START_TIMEOUT
    while monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    raise MondrianError(f"{url} is not ready (status {process.poll()}): {lines[-1][:300]}")
