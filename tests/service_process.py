"""The real service as a process, and small adapters for it, for tests."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash
from mondrian.critique.schema import DIMENSIONS, schema_hash
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent
TINY = "models/base/mondrian-tiny"
_PORT = re.compile(r"Uvicorn running on http://[^:\s]+:(\d+)")


@dataclass
class ServiceProcess:
    """A service process. Each line of `log_path`, its stderr, is a JSON object."""

    url: str
    process: subprocess.Popen[bytes]
    log_path: Path
    db: Path
    data: Path

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the log as objects."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def client(self, **options: Any) -> httpx2.Client:
        """Return an HTTP client that ignores proxies of this machine."""
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=PATIENCE, **options)


@contextmanager
def run_service(
    tmp_path: Path,
    *flags: object,
    env: dict[str, str] | None = None,
    base: str = TINY,
    ready: bool = True,
    **serve: object,
) -> Iterator[ServiceProcess]:
    """Run a service on a free port, with its jobs.db and photos in tmp_path.

    flags  of ai_advisor_service.py; they override those set here
    base   replaces base.source of params.yaml
    ready  wait until a request would be answered; else until it listens
    serve  replaces parameters of the section serve: running(tmp_path, lease_seconds=2)
    """
    service = start_service(tmp_path, *flags, env=env, base=base, **serve)
    try:
        wait = wait_for_ready if ready else wait_for_port
        wait(service)
        yield service
    finally:
        stop_service(service)


def start_service(
    tmp_path: Path,
    *flags: object,
    env: dict[str, str] | None = None,
    base: str = TINY,
    **serve: object,
) -> ServiceProcess:
    """Start a service without waiting; its url is empty until `wait_for_port`."""
    log_path, params = _unused_paths(tmp_path)
    params.write_text(_params(base, serve), encoding="utf-8")
    db, data = tmp_path / "jobs.db", tmp_path / "service"
    command = [
        sys.executable,
        str(ROOT / "mondrian/ai_advisor_service.py"),
        "--params",
        str(params),
        "--port",
        "0",
        "--db",
        str(db),
        "--data",
        str(data),
        *map(str, flags),
    ]
    environ = {name: value for name, value in os.environ.items() if name != "MONDRIAN_API_KEY"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        )
    return ServiceProcess("", process, log_path, db, data)


def wait_for_port(service: ServiceProcess) -> None:
    """Wait until it listens, and set its url. Fails with its log if it ended."""

    def find_port() -> re.Match[str] | None:
        _check_running(service)
        return _PORT.search(service.log())

    service.url = f"http://127.0.0.1:{wait_for(find_port, service.log)[1]}"


def wait_for_ready(service: ServiceProcess) -> None:
    """Wait until a request would be answered. Fails with its log if it ended."""
    wait_for_port(service)

    def is_ready() -> bool:
        _check_running(service)
        return client.get("/ready").status_code == 200

    with service.client() as client:
        wait_for(is_ready, service.log)


def stop_service(service: ServiceProcess) -> int:
    """End a service; return its exit code."""
    return end_process(service.process)


def end_process(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM, and SIGKILL if the process does not end; return its exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def make_adapter(
    vlm: Any, folder: Path, advisor: str, params: Params, seed: int = 1, size: float = 0.05
) -> Path:
    """Write a small adapter of random weights that the service accepts; its seed is its version.

    size  scale of lora_B, so of the difference to the base's completions
    """
    import mlx.core as mx

    from mondrian.model import adapter, lora
    from mondrian.model.lora import LoraConfig

    config = LoraConfig(rank=4, alpha=8)
    lora.detach(vlm.model)
    layers = lora.attach(vlm.model, config, mx.random.key(seed))
    for i, layer in enumerate(layers.values()):
        key = mx.random.key(1000 * seed + i)
        layer.lora_b = size * mx.random.normal(layer.lora_b.shape, key=key)
    weights = lora.lora_state_dict(layers)
    folder.mkdir(parents=True, exist_ok=True)
    depth = len(vlm.model.language_model.model.layers)
    adapter.save(folder, weights, config, _recipe(vlm, advisor, params), depth)
    lora.detach(vlm.model)
    return folder


def _recipe(vlm: Any, advisor: str, params: Params) -> dict[str, Any]:
    image = params.image
    return {
        "advisor": advisor,
        "base": {"source": vlm.source, "sha256": vlm.hash},
        "image": {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels},
        "prompt_sha256": prompt_hash(params.persona(advisor)),
        "schema_sha256": schema_hash(),
        "train_photo_groups": [],
        "train_score_medians": dict.fromkeys(DIMENSIONS, 5.0),
    }


def _params(base: str, serve: dict[str, object]) -> str:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["base"]["source"] = base
    params["serve"] |= serve
    return yaml.safe_dump(params, allow_unicode=True, sort_keys=False)


def _unused_paths(folder: Path) -> tuple[Path, Path]:
    """Return paths for the log and params of one more service in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in count(1):
        log_path = folder / f"service-{i}.log"
        if not log_path.exists():
            return log_path, folder / f"params-{i}.yaml"
    raise AssertionError("count ended")


def _check_running(service: ServiceProcess) -> None:
    code = service.process.poll()
    if code is not None:
        raise AssertionError(f"the service ended with {code}:\n{service.log()}")


def analyze_as(
    client: httpx2.Client, photo: bytes, client_id: str, mode: str = ""
) -> dict[str, Any]:
    """Critique a photo for ansel; return the response."""
    response = client.post(
        "/analyze",
        files={"image": ("lake.jpg", photo)},
        data={"advisor": "ansel", "mode": mode},
        headers={"x-client-id": client_id},
    )
    assert response.status_code == 200, response.text
    return dict(response.json())


def model_process(service: ServiceProcess) -> psutil.Process | None:
    """Return the model process, if there is one now."""
    children = psutil.Process(service.process.pid).children()
    return next((c for c in children if "mondrian.serving.worker" in " ".join(c.cmdline())), None)
