"""Every operation responds as the OpenAPI document says, to valid and invalid requests, never 5xx.

Schemathesis generates the requests.
"""

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

from tests.service_process import ServiceProcess, run_service
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
EXAMPLES = 25  # of each operation
SKIPPED_CHECKS = (
    "positive_data_acceptance",  # random bytes are not a photo and are rejected
    "unsupported_method",  # Starlette's Allow header has the methods of a path's first route only
    "allow_header_conformance",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service(tmp_path_factory.mktemp("service"), requests_per_minute=0) as started:
        yield started


def run_schemathesis(service: ServiceProcess, folder: Path, settings: str, *flags: str) -> str:
    """Run Schemathesis and return its output; fail if it finds an error."""
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
        ",".join(SKIPPED_CHECKS),
        "--suppress-health-check",
        "all",
        "--request-timeout",
        "600",
        "--warnings",
        "off",
        *flags,
    ]
    env = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def logged_responses(service: ServiceProcess) -> list[dict[str, Any]]:
    """Return the log lines of responses. Paths may contain line ends that only Python knows."""
    lines = [json.loads(line) for line in service.log().split("\n") if line]
    return [line for line in lines if "status" in line]


def assert_no_server_error(service: ServiceProcess) -> None:
    with service.client() as client:
        assert client.get("/health").json()["status"] == "UP"
    assert "Traceback" not in service.log()
    assert not [line for line in logged_responses(service) if line["status"] >= 500]


def test_every_operation_responds_as_documented(service: ServiceProcess, tmp_path: Path) -> None:
    output = run_schemathesis(service, tmp_path, "")
    operations = re.search(r"Tested: (\d+)", output)
    assert operations, output
    assert int(operations[1]) >= 25
    assert_no_server_error(service)


def test_every_route_of_an_existing_job_responds_as_documented(
    service: ServiceProcess, tmp_path: Path, photos: list[Image.Image]
) -> None:
    photo = BytesIO()
    photos[0].save(photo, "JPEG")
    with service.client() as client:
        response = client.post("/analyze", files={"image": ("lake.jpg", photo.getvalue())})
    settings = f'parameters = {{ "path.id" = "{response.json()["job_id"]}" }}\n'
    only = ("--include-path-regex", r"\{id\}")
    run_schemathesis(service, tmp_path, settings, *only)
    assert_no_server_error(service)
    paths = [line["path"] for line in logged_responses(service) if line["status"] == 200]
    views = {path.split("/")[1] for path in paths if response.json()["job_id"] in path}
    assert views >= {"status", "jobs", "analysis", "summary", "llm-outputs", "stream"}


def test_every_body_has_an_example(service: ServiceProcess) -> None:
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    posts = [
        operation
        for item in paths.values()
        for operation in item.values()
        if "requestBody" in operation
    ]
    kinds = [kind for post in posts for kind in post["requestBody"]["content"].values()]
    assert len(kinds) == 7
    for kind in kinds:
        fields = kind["schema"]["properties"].values()
        assert "example" in kind or any("example" in field for field in fields)
    for path, status in (("/analyze", "200"), ("/upload", "201"), ("/jobs", "201")):
        answer = paths[path]["post"]["responses"][status]["content"]["application/json"]
        assert answer["example"]
