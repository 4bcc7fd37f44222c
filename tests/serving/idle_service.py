"""The whole application in this process, without a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import yaml
from starlette.testclient import TestClient

from mondrian.cli.serve import parse_args
from mondrian.serving.app import create_app
from mondrian.serving.engines.base import Completion, CritiqueRequest, EngineState
from mondrian.serving.service import Service
from mondrian.serving.settings import load_settings
from tests.conftest import ROOT

URL = "http://127.0.0.1:5100"


class IdleEngine:
    """An engine that is ready and gets no request."""

    def __init__(self) -> None:
        self.state = EngineState("ready", model="idle")

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def critique(self, request: CritiqueRequest, /) -> Completion:
        raise AssertionError


@contextmanager
def application(tmp_path: Path, *flags: str) -> Iterator[tuple[TestClient, Service]]:
    """Run the whole application in this process, without a model."""
    files = ["--db", str(tmp_path / "jobs.db"), "--data", str(tmp_path)]
    args = parse_args(["--params", str(ROOT / "params.yaml"), *files, *flags])
    service = Service(load_settings(args), IdleEngine())
    with TestClient(create_app(service), URL, raise_server_exceptions=False) as client:
        yield client, service


def write_params(folder: Path, **serve: object) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["serve"] |= serve
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return path


def upload(client: TestClient, photo: bytes, key: str = "", **fields: str) -> httpx2.Response:
    """Upload a photo for a job that waits."""
    headers = {"idempotency-key": key} if key else {}
    files, fields = {"image": ("lake.jpg", photo)}, {"auto_analyze": "false"} | fields
    return client.post("/upload", files=files, data=fields, headers=headers)
