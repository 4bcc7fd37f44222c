"""A completion, an advisor or a file name that is a script is shown as text and never runs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mondrian.critique.schema import DIMENSIONS
from tests.conftest import ROOT
from tests.core.odd_photos import encode
from tests.service_process import ServiceProcess, run_service

pytestmark = pytest.mark.slow
EVIL = "<script>alert(1)</script>\u2028\"'><img src=x onerror=alert(1)>"


class ScriptServer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server with scripts in its completions."""

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "evil"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        critique = {
            "image_description": EVIL,
            "overall_score": 5,
            "key_strengths": [EVIL],
            "priority_improvements": [EVIL],
            "technical_notes": EVIL,
            "dimensions": [
                {"name": name, "score": 5, "comment": EVIL, "recommendation": EVIL}
                for name in DIMENSIONS
            ],
        }
        delta = {"content": json.dumps(critique)}
        chunk = {"choices": [{"delta": delta, "finish_reason": "stop"}]}
        self._answer(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def script_service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service with scripts in its completions and in an advisor's profile."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["profiles"]["ansel"] |= {"name": EVIL, "bio": EVIL, "specialty": EVIL, "years": EVIL}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScriptServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        engine = ("--engine", "openai", "--engine_url", url, "--engine_model", "base=evil")
        with run_service(tmp_path, "--params", tmp_path / "params.yaml", *engine) as service:
            yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_script_in_a_critique_or_an_advisor_s_profile_is_shown_as_text(
    script_service: ServiceProcess, photos: list[Image.Image]
) -> None:
    files = {"image": (f"{EVIL[:25]}.jpg", encode(photos[0], "JPEG"))}
    with script_service.client() as client:
        job = client.post("/analyze", files=files, data={"advisor": "ansel"}).json()
        id = job["job_id"]
        pages = [job[name] for name in ("analysis_html", "summary_html", "advisor_bio_html")]
        paths = (
            "/",
            "/history",
            "/jobs?format=html",
            "/advisor_image/ansel",
            f"/view/{id}",
            f"/analysis/{id}",
            f"/summary/{id}",
            f"/status/{id}?view=detail",
        )
        for path in paths:
            response = client.get(path)
            assert response.status_code == 200, path
            assert "script-src 'self'" in response.headers["content-security-policy"]
            pages.append(response.text)
        for page in pages:
            assert "<script>alert" not in page
            assert "<img src=x" not in page
        assert sum("&lt;script&gt;alert(1)" in page for page in pages) >= 8
        with client.stream("POST", "/analyze_stream", files=files) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert all(line.startswith("data: {") and line.endswith("}") for line in lines)
