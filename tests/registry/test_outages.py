"""Pulls that are killed, interrupted or out of disk, the real canary, S3: what serves is whole."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from mondrian.core.params import Params
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf
from tests.conftest import ROOT, assert_one_error
from tests.releasing import Mac, Project, make_adapters, make_released

pytestmark = pytest.mark.slow
_WITHOUT_MODEL = """
import os, sys
from pathlib import Path
from mondrian.core.errors import run
from mondrian.core.params import load_params
from mondrian.registry import pull as module
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf
from tests.releasing import Trusting

where, source, rev, step, spare = sys.argv[1:]
if step != "-1":
    left = int(step)
    def counted(plain):
        def call(*words, **more):
            global left
            if left == 0:
                os.kill(os.getpid(), 9)
            left -= 1
            return plain(*words, **more)
        return call
    for name in ("fsync", "replace", "rename", "symlink", "mkdir", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
module.MIN_FREE_BYTES = int(spare)
def main():
    module.pull(Shelf(Path(where), "ansel"), module.VersionSelector(rev, None), Source(source),
                load_params(Path("params.yaml")), Trusting())
run(main)
"""


@pytest.fixture(scope="module")
def released(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("released")
    made = make_adapters(tiny, folder / "adapters", params, 2)
    return make_released(folder / "project", {"v1.0.0": made[0], "v2.0.0": made[1]})


@pytest.fixture
def mac(released: Project, params: Params, tmp_path: Path) -> Mac:
    shelf = Shelf(tmp_path / "serving" / "ansel", "ansel")
    return Mac(shelf, Source(str(released.folder)), params)


def command(mac: Mac, rev: str, *more: object) -> list[str]:
    """`mondrian pull`, with the model."""
    words = [sys.executable, "-m", "mondrian", "pull", "ansel", "--rev", rev]
    words += ["--from", mac.source.repository, "--serving_dir", str(mac.shelf.folder.parent)]
    return [*words, *map(str, more)]


def quick(mac: Mac, rev: str, step: int = -1, spare: int = 0) -> list[str]:
    """The same without, which kills itself at a step: one that changes something on the disk."""
    return [
        sys.executable,
        "-c",
        _WITHOUT_MODEL,
        str(mac.shelf.folder),
        mac.source.repository,
        rev,
        str(step),
        str(spare),
    ]


def done(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_pulled_adapter_has_made_a_critique(mac: Mac) -> None:
    shown = done(command(mac, "v1"))
    assert shown.returncode == 0, shown.stderr
    assert "ansel@v1.0.0 serves (adapter " in shown.stdout
    assert "ansel@v1.0.0" in shown.stderr  # the bar
    assert mac.serves() == "v1.0.0"
    again = done(command(mac, "v1"))
    assert "here already, verified again" in again.stdout


def test_rolling_back_by_the_command(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    where = ["--serving_dir", str(mac.shelf.folder.parent)]
    back = [sys.executable, "-m", "mondrian", "rollback", "ansel", *where]
    assert "ansel@v1.0.0 serves again, instead of v2.0.0" in done(back).stdout
    assert_one_error(
        done(back), "no version served before ansel@v1.0.0", "mondrian pull ansel --rev"
    )
    listed = done([sys.executable, "-m", "mondrian", "releases", "ansel", *where]).stdout
    assert [line.split()[::2][1] for line in listed.splitlines()[2:]] == ["kept", "serves"]


def test_an_adapter_of_another_base_is_refused(mac: Mac, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in (ROOT / "models/base/mondrian-tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(config | {"top_p": 0.9}))
    told = yaml.safe_load((ROOT / "params.yaml").read_text())
    told["base"]["source"] = str(other)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    mac.pull("v1")
    shown = done(command(mac, "v2", "--params", tmp_path / "params.yaml"))
    assert_one_error(shown, "ansel@v2.0.0 was trained on", "not on this base")
    assert mac.serves() == "v1.0.0"
    assert mac.left() == []


def test_an_adapter_that_does_nothing_is_refused(
    released: Project, mac: Mac, tiny: Any, params: Params, tmp_path: Path
) -> None:
    from mondrian.registry.smoke_test_worker import SmokeTestRunner, handle_request
    from tests.service_process import make_adapter

    proof = SmokeTestRunner(params, "ansel")
    asked = json.dumps(
        [str(make_adapter(tiny, tmp_path / "zero", "ansel", params, size=0.0)), "it"]
    )
    assert "every lora_B is zero" in handle_request(proof, asked)["fault"]
    assert str(tmp_path) not in handle_request(proof, asked)["fault"]


def test_ctrl_c_changes_nothing(mac: Mac) -> None:
    mac.pull("v1")
    heeding = (  # a shell's background job, as tests may be, ignores SIGINT, and so do its children
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", heeding, *command(mac, "v2")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        for _ in range(1500):
            time.sleep(0.02)
            if mac.left():
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert mac.serves() == "v1.0.0"
    assert mac.left() == []


@pytest.mark.long
def test_killed_at_any_step_what_serves_is_whole(mac: Mac) -> None:
    mac.pull("v1")
    seen, steps = set(), 0
    for step in range(400):
        code = done(quick(mac, "v2" if mac.serves() == "v1.0.0" else "v1", step)).returncode
        seen.add(mac.serves())
        if code == 0:
            break
        assert code == -signal.SIGKILL
        steps += 1
    assert steps > 10
    assert seen == {"v1.0.0", "v2.0.0"}
    mac.pull("v1")
    mac.pull("v2")
    assert (mac.serves(), mac.left()) == ("v2.0.0", [])


@pytest.mark.long
def test_killed_at_random_moments_what_serves_is_whole(mac: Mac) -> None:
    mac.pull("v1")
    started = time.perf_counter()
    assert done(command(mac, "v2")).returncode == 0
    takes = time.perf_counter() - started
    rng, killed, wanted = random.Random(20), 0, "v1"
    while killed < 20:
        with subprocess.Popen(
            command(mac, wanted),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:
            time.sleep(rng.uniform(0, takes))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert mac.serves() in ("v1.0.0", "v2.0.0")
        wanted = "v1" if mac.serves() == "v2.0.0" else "v2"
    assert done(command(mac, "v1")).returncode == 0
    assert (mac.serves(), mac.left()) == ("v1.0.0", [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MB, full of nothing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)],
        capture_output=True,
        text=True,
    )
    if told.returncode:
        pytest.skip(f"no disk can be mounted here: {told.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_is_full_at_any_point_changes_nothing(mac: Mac, small_disk: Path) -> None:
    here = Mac(Shelf(small_disk / "ansel", "ansel"), mac.source, mac.params)
    done(quick(here, "v1"))
    assert here.serves() == "v1.0.0"
    ballast, faults = small_disk / "ballast", []
    free = os.statvfs(small_disk).f_bavail * 4096
    for left in range(0, 8_000_000, 400_000):
        with ballast.open("wb") as file:
            file.write(b"\0" * max(0, free - left))
        shown = done(quick(here, "v2", spare=-(1 << 40)))
        assert here.serves() in ("v1.0.0", "v2.0.0")
        assert here.left() == []
        ballast.unlink()
        if shown.returncode == 0:
            break
        assert_one_error(shown)
        faults.append(shown.stderr)
    assert here.serves() == "v2.0.0"
    assert sum("No space left on device" in fault for fault in faults) >= 3


def test_files_that_may_not_grow_change_nothing(mac: Mac) -> None:
    mac.pull("v1")
    words = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *quick(mac, "v2")]
    assert_one_error(done(words))
    assert (mac.serves(), mac.left()) == ("v1.0.0", [])


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server on loopback with a bucket; what a client's environment needs."""
    missing = [name for name in ("dvc_s3", "moto", "flask", "flask_cors") if not find_spec(name)]
    if missing:
        pytest.skip(f"S3 is tried with dvc-s3, moto, flask and flask-cors; {missing[0]} is missing")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, time; from moto.server import ThreadedMotoServer as Server; "
        "Server('127.0.0.1', int(sys.argv[1])).start(); time.sleep(600)"
    )
    env = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "HOME": str(tmp_path),
    }
    make = (
        "import time, boto3\nfor _ in range(100):\n  try:\n    boto3.client('s3')"
        ".create_bucket(Bucket='versions'); break\n  except Exception: time.sleep(0.1)\n"
        "else: raise SystemExit('no S3')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stderr=subprocess.DEVNULL
    ) as server:
        try:
            subprocess.run([sys.executable, "-c", make], env=os.environ | env, check=True)
            yield env
        finally:
            server.kill()


def test_a_version_comes_from_s3(released: Project, mac: Mac, bucket: dict[str, str]) -> None:
    released.run("dvc", "remote", "add", "-q", "--local", "-f", "s3", "s3://versions/store")
    pushed = subprocess.run(
        ["dvc", "push", "-q", "train@ansel", "-r", "s3"],
        cwd=released.folder,
        capture_output=True,
        text=True,
        env=released.env | bucket,
    )
    assert pushed.returncode == 0, pushed.stderr
    shown = done(command(mac, "v2", "--remote_url", "s3://versions/store"), **bucket)
    assert shown.returncode == 0, shown.stderr
    assert mac.serves() == "v2.0.0"
    assert "ClientSession" not in shown.stderr
    gone = done(command(mac, "v1", "--remote_url", "s3://versions/store"), **bucket)
    assert_one_error(gone, "ansel@v1.0.0", "is not in the DVC remote", "dvc push train@ansel")
    nowhere = done(command(mac, "v1", "--remote_url", "s3://nowhere/store"), **bucket)
    assert_one_error(nowhere, "ansel@v1.0.0")
    assert mac.serves() == "v2.0.0"
