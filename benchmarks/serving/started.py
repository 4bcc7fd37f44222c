"""Servers that are started for a measurement, and ended with it by their process ids."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx2 as httpx
import psutil

from benchmarks.serving.world import PORTS, ROOT, World
from mondrian.core.errors import MondrianError

_PATIENCE = 180.0  # seconds that a server may take to be ready


@dataclass(frozen=True)
class Server:
    """One that answers at `url`."""

    url: str
    process: psutil.Process

    @property
    def model(self) -> psutil.Process:
        """The model process of our service."""
        found: psutil.Process = self.process.children()[0]
        return found


@contextmanager
def our_service(world: World, *flags: str) -> Iterator[Server]:
    """mondrian/ai_advisor_service.py on a free port, once it is ready."""
    port, data = free_port(), world.folder / "data"
    command = [
        sys.executable,
        str(ROOT / "mondrian/ai_advisor_service.py"),
        "--params",
        str(world.params_file),
        "--port",
        str(port),
        "--data",
        str(data),
        "--db",
        str(data / "jobs.db"),
        *flags,
    ]
    with _started(command, port, "/ready", world.folder / "service.log", {}) as server:
        yield server


@contextmanager
def their_server(base: Path, limit: int, log: Path) -> Iterator[Server]:
    """mlx_vlm.server with this project's BLAS and malloc, without which it is 25 times slower.

    One thread of BLAS, float32 weights, no prefix cache (it has none for Qwen3-VL) and a batch
    without bound served it best where it was tried.
    """
    port = free_port()
    command = [
        sys.executable,
        str(ROOT / "benchmarks/systems/mlx_vlm_server.py"),
        "--model",
        str(base),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--max-tokens",
        str(limit),
        "--log-level",
        "WARNING",
    ]
    env = {"OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with _started(command, port, "/health", log, env) as server:
        yield server


def free_port() -> int:
    """The first of PORTS that nobody listens on."""
    for port in PORTS:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                return port
    raise MondrianError(f"ports {PORTS[0]} to {PORTS[-1]} are all taken; end what listens there")


@contextmanager
def _started(
    command: list[str], port: int, ready: str, log: Path, env: dict[str, str]
) -> Iterator[Server]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | env, cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url + ready, log)
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        sleep(0.1)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise MondrianError(f"{url} is not ready (status {process.poll()}): {lines[-1][:300]}")
