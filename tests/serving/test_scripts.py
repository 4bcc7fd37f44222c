"""A model, an advisor or a file name that is a script: shown, and never run."""

from __future__ import annotations

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
from tests.odd_files import encoded
from tests.service_process import Running, running

pytestmark = pytest.mark.slow
EVIL = "<script>alert(1)</script>\u2028\"'><img src=x onerror=alert(1)>"


class Possessed(BaseHTTPRequestHandler):
    """A model that writes scripts."""

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "evil"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        told = {
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
        piece = {"choices": [{"delta": {"content": json.dumps(told)}, "finish_reason": "stop"}]}
        self._answer(f"data: {json.dumps(piece)}\n\ndata: [DONE]\n\n")

    def _answer(self, told: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(told.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def possessed(tmp_path: Path) -> Iterator[Running]:
    """A service whose model and whose advisor's name are scripts."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["profiles"]["ansel"] |= {"name": EVIL, "bio": EVIL, "specialty": EVIL, "years": EVIL}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Possessed)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        told = ("--engine", "openai", "--engine_url", url, "--engine_model", "base=evil")
        with running(tmp_path, "--params", tmp_path / "params.yaml", *told) as service:
            yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_script_that_a_model_or_an_advisor_writes_is_shown_and_not_run(
    possessed: Running, photos: list[Image.Image]
) -> None:
    files = {"image": (f"{EVIL[:25]}.jpg", encoded(photos[0], "JPEG"))}
    with possessed.client() as client:
        told = client.post("/analyze", files=files, data={"advisor": "ansel"}).json()
        id = told["job_id"]
        pages = [told[name] for name in ("analysis_html", "summary_html", "advisor_bio_html")]
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
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            pages.append(answer.text)
        for page in pages:
            assert "<script>alert" not in page
            assert "<img src=x" not in page
        assert sum("&lt;script&gt;alert(1)" in page for page in pages) >= 8
        with client.stream("POST", "/analyze_stream", files=files) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert all(line.startswith("data: {") and line.endswith("}") for line in lines)
