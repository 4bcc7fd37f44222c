"""Whatever the OpenAPI document allows, and much that it does not: answered as it says, never 5xx.

Schemathesis makes the requests, of every operation there is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.service_process import Running, running

pytestmark = pytest.mark.slow
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
EXAMPLES = 40  # of each operation
NOT_ASKED = (
    "positive_data_acceptance",  # bytes at random are no photograph, and are refused
    "unsupported_method",  # Starlette's Allow names the methods of the first route of a path alone
    "allow_header_conformance",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service"), requests_per_minute=0) as started:
        yield started


def tried(service: Running, folder: Path, settings: str, *flags: str) -> str:
    """What Schemathesis told; it fails where it found anything."""
    (folder / "schemathesis.toml").write_text(settings)
    command = [
        str(SCHEMATHESIS),
        "--no-color",
        "run",
        f"{service.url}/openapi.json",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--exclude-checks",
        ",".join(NOT_ASKED),
        "--suppress-health-check",
        "all",
        "--request-timeout",
        "30",
        "--warnings",
        "off",
        *flags,
    ]
    env = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answered(service: Running) -> list[dict[str, Any]]:
    """Its log, a line for each answer; a path may hold what only Python takes for a line's end."""
    lines = [json.loads(line) for line in service.log().split("\n") if line]
    return [line for line in lines if "status" in line]


def assert_no_fault(service: Running) -> None:
    with service.client() as client:
        assert client.get("/health").json()["status"] == "UP"
    assert "Traceback" not in service.log()
    assert not [line for line in answered(service) if line["status"] >= 500]


def test_every_operation_answers_as_its_document_says(service: Running, tmp_path: Path) -> None:
    told = tried(service, tmp_path, "")
    operations = re.search(r"Tested: (\d+)", told)
    assert operations, told
    assert int(operations[1]) >= 25
    assert_no_fault(service)


def test_every_view_of_a_job_that_there_is_answers_as_its_document_says(
    service: Running, tmp_path: Path, photos: list[Image.Image]
) -> None:
    kept = BytesIO()
    photos[0].save(kept, "JPEG")
    with service.client() as client:
        told = client.post("/analyze", files={"image": ("lake.jpg", kept.getvalue())})
    settings = f'parameters = {{ "path.id" = "{told.json()["job_id"]}" }}\n'
    only = ("--include-path-regex", r"\{id\}")
    tried(service, tmp_path, settings, *only)
    assert_no_fault(service)
    paths = [line["path"] for line in answered(service) if line["status"] == 200]
    views = {path.split("/")[1] for path in paths if told.json()["job_id"] in path}
    assert views >= {"status", "jobs", "analysis", "summary", "llm-outputs", "stream"}


def test_the_document_has_an_example_of_every_body(service: Running) -> None:
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    posts = [told for one in paths.values() for told in one.values() if "requestBody" in told]
    kinds = [kind for one in posts for kind in one["requestBody"]["content"].values()]
    assert len(kinds) == 7
    for kind in kinds:
        fields = kind["schema"]["properties"].values()
        assert "example" in kind or any("example" in field for field in fields)
    for path, status in (("/analyze", "200"), ("/upload", "201"), ("/jobs", "201")):
        answer = paths[path]["post"]["responses"][status]["content"]["application/json"]
        assert answer["example"]
