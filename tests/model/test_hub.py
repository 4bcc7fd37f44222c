"""Planning a base of the hub: config and tokenizer are fetched, or a note says how."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mondrian.core.errors import BaseModelError
from mondrian.model import vlm
from mondrian.model.architecture import read_architecture
from mondrian.model.hub import find_plan_files
from tests.conftest import ROOT
from tests.waiting import PATIENCE

TINY = ROOT / "models/base/mondrian-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    """A hub with one model, mondrian-tiny, as someone/tiny-vl."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        name = self.path.partition("?")[0].removeprefix(f"/someone/tiny-vl/resolve/{COMMIT}/")
        files = [file for file in TINY.iterdir() if file.is_file()]
        if name.startswith("/api/models/someone/tiny-vl/tree/"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            return self._send(200, json.dumps(tree).encode())
        if name.startswith("/api/models/someone/tiny-vl"):
            siblings = [{"rfilename": file.name} for file in files]
            model = {"id": "someone/tiny-vl", "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(model).encode())
        if (TINY / name).is_file():
            return self._send(200, (TINY / name).read_bytes())
        return self._send(404, b"{}")

    def _send(self, status: int, content: bytes) -> bytes:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return content

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run_plan(
    prepared_dir: Path, tmp_path: Path, endpoint: str, base: str
) -> subprocess.CompletedProcess[str]:
    data = [f"--{part}_data={prepared_dir / part}.json" for part in ("train", "val")]
    command = [sys.executable, "stages/train.py", "--plan", "--memory_gb=50", "--base", base, *data]
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=PATIENCE
    )


@pytest.mark.slow
def test_a_plan_fetches_config_and_tokenizer_and_no_weights(
    prepared_dir: Path, tmp_path: Path, hub: str
) -> None:
    process = run_plan(prepared_dir, tmp_path, hub, "someone/tiny-vl")
    assert process.returncode == 0, process.stderr
    assert "note:" not in process.stderr
    local = run_plan(prepared_dir, tmp_path, hub, str(TINY))
    tokens = [line for line in local.stdout.splitlines() if line.startswith("  tokens")]
    assert tokens
    assert tokens[0] in process.stdout  # not "about": they are the model's own
    snapshot = tmp_path / "hf/hub/models--someone--tiny-vl/snapshots" / COMMIT
    assert {"config.json", "tokenizer.json"} <= {file.name for file in snapshot.iterdir()}
    assert not list(snapshot.glob("*.safetensors"))


@pytest.mark.slow
def test_a_plan_without_a_hub_says_that_it_is_an_estimate(
    prepared_dir: Path, tmp_path: Path
) -> None:
    base = "Qwen/Qwen3-VL-2B-Instruct"
    process = run_plan(prepared_dir, tmp_path, "http://127.0.0.1:9", base)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("note:") == 1
    assert "sizes are estimated from its name and tokens from the rows' words" in process.stderr
    assert f"hf download {base}" in process.stderr
    assert "about" in process.stdout
    assert "Traceback" not in process.stderr


def test_nothing_is_fetched_for_a_folder_or_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_plan_files(str(TINY)) == TINY
    assert find_plan_files(str(tmp_path / "missing")) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "source",
    ["Qwen/Qwen3-VL-4B-Thinking", "mlx-community/Qwen3-VL-4B-Thinking-4bit", "models/x-thinking/"],
)
def test_a_base_that_writes_thoughts_is_refused_by_name(source: str) -> None:
    for read in (read_architecture, vlm.fetch_base_folder):
        with pytest.raises(BaseModelError, match=r"writes thoughts.*; use \S+Instruct") as caught:
            read(source)
        assert "\n" not in str(caught.value)
