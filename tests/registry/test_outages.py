"""Pulls that are killed, interrupted or out of disk, the real smoke test, and S3."""

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
from mondrian.registry.download import VersionSource
from mondrian.registry.local_store import LocalStore
from tests.conftest import ROOT, assert_one_error
from tests.releasing import Mac, Project, make_adapters, make_released
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow
_WITHOUT_MODEL = """
import os, sys
from pathlib import Path
from mondrian.core.errors import run_command
from mondrian.core.params import load_params
from mondrian.registry import pull as module
from mondrian.registry.download import VersionSource
from mondrian.registry.local_store import LocalStore

store_dir, repository, rev, kill_step, min_free = sys.argv[1:]
if kill_step != "-1":
    remaining = int(kill_step)
    def counted(function):
        def call(*args, **kwargs):
            global remaining
            if remaining == 0:
                os.kill(os.getpid(), 9)
            remaining -= 1
            return function(*args, **kwargs)
        return call
    for name in ("fsync", "replace", "rename", "symlink", "mkdir", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
module.MIN_FREE_BYTES = int(min_free)
def main():
    store, selector = LocalStore(Path(store_dir), "ansel"), module.VersionSelector(rev, None)
    params = load_params(Path("params.yaml"))
    module.pull(store, selector, VersionSource(repository), params, lambda folder, name: None)
run_command(main)
"""


@pytest.fixture(scope="module")
def released(tiny: Any, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("released")
    adapters = make_adapters(tiny, folder / "adapters", params, 2)
    return make_released(folder / "project", {"v1.0.0": adapters[0], "v2.0.0": adapters[1]})


@pytest.fixture
def mac(released: Project, params: Params, tmp_path: Path) -> Mac:
    store = LocalStore(tmp_path / "serving" / "ansel", "ansel")
    return Mac(store, VersionSource(str(released.folder)), params)


def pull_command(mac: Mac, rev: str, *flags: object) -> list[str]:
    """Return `mondrian pull`, with the model."""
    command = [sys.executable, "-m", "mondrian", "pull", "ansel", "--rev", rev]
    return [*command, "--from", mac.source.repository, *local_flags(mac), *map(str, flags)]


def local_flags(mac: Mac) -> list[str]:
    folder = mac.store.folder.parent
    return ["--serving_dir", str(folder), "--db", str(folder / "jobs.db")]


def fast_pull_command(mac: Mac, rev: str, kill_step: int = -1, min_free: int = 0) -> list[str]:
    """Return a pull without the model, killed at a call that changes the disk."""
    return [
        sys.executable,
        "-c",
        _WITHOUT_MODEL,
        str(mac.store.folder),
        mac.source.repository,
        rev,
        str(kill_step),
        str(min_free),
    ]


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_pulled_adapter_has_passed_the_smoke_test(mac: Mac) -> None:
    result = run(pull_command(mac, "v1"))
    assert result.returncode == 0, result.stderr
    assert "ansel@v1.0.0 is active (adapter " in result.stdout
    assert mac.active() == "v1.0.0"
    repeated = run(pull_command(mac, "v1"))
    assert "already here, verified again" in repeated.stdout


def test_rollback_by_the_command(mac: Mac) -> None:
    mac.pull("v1")
    mac.pull("v2")
    flags = local_flags(mac)
    rollback = [sys.executable, "-m", "mondrian", "rollback", "ansel", *flags]
    assert "ansel@v1.0.0 is active again, instead of v2.0.0" in run(rollback).stdout
    message = "no version was active before ansel@v1.0.0"
    assert_one_error(run(rollback), message, "mondrian pull ansel --rev")
    table = run([sys.executable, "-m", "mondrian", "list", "ansel", *flags]).stdout
    assert [line.split()[::2][1] for line in table.splitlines()[2:]] == ["installed", "active"]


def test_an_adapter_of_another_base_is_refused(mac: Mac, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in (ROOT / "models/base/mondrian-tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(config | {"top_p": 0.9}))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"]["source"] = str(other)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    mac.pull("v1")
    result = run(pull_command(mac, "v2", "--params", tmp_path / "params.yaml"))
    assert_one_error(result, "ansel@v2.0.0 was trained on", "not on this base")
    assert mac.active() == "v1.0.0"
    assert mac.leftovers() == []


def test_an_adapter_without_effect_is_refused(
    released: Project, mac: Mac, tiny: Any, params: Params, tmp_path: Path
) -> None:
    from mondrian.registry.smoke_test_worker import SmokeTestRunner, handle_request
    from tests.service_process import make_adapter

    runner = SmokeTestRunner(params, "ansel")
    adapter = make_adapter(tiny, tmp_path / "zero", "ansel", params, size=0.0)
    fault = handle_request(runner, json.dumps([str(adapter), "it"]))["fault"]
    assert "every lora_B is zero" in fault
    assert str(tmp_path) not in fault


def test_ctrl_c_changes_nothing(mac: Mac) -> None:
    mac.pull("v1")
    heed_sigint = (  # background jobs of a shell, and their children, ignore SIGINT
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", heed_sigint, *pull_command(mac, "v2")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        wait_for(lambda: mac.leftovers() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert mac.active() == "v1.0.0"
    assert mac.leftovers() == []


def test_a_pull_killed_at_any_step_leaves_a_complete_active_version(mac: Mac) -> None:
    mac.pull("v1")
    versions, kills = set(), 0
    for step in range(400):
        other = "v2" if mac.active() == "v1.0.0" else "v1"
        code = run(fast_pull_command(mac, other, step)).returncode
        versions.add(mac.active())
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills > 10
    assert versions == {"v1.0.0", "v2.0.0"}
    mac.pull("v1")
    mac.pull("v2")
    assert (mac.active(), mac.leftovers()) == ("v2.0.0", [])


def test_a_pull_killed_at_random_times_leaves_a_complete_active_version(mac: Mac) -> None:
    mac.pull("v1")
    started = time.perf_counter()
    assert run(pull_command(mac, "v2")).returncode == 0
    duration = time.perf_counter() - started
    rng, kills, rev = random.Random(8), 0, "v1"
    while kills < 8:
        with subprocess.Popen(
            pull_command(mac, rev),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:
            time.sleep(rng.uniform(0, duration))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        assert mac.active() in ("v1.0.0", "v2.0.0")
        rev = "v1" if mac.active() == "v2.0.0" else "v2"
    assert run(pull_command(mac, "v1")).returncode == 0
    assert (mac.active(), mac.leftovers()) == ("v1.0.0", [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount an empty disk of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_at_any_point_changes_nothing(mac: Mac, small_disk: Path) -> None:
    small_mac = Mac(LocalStore(small_disk / "ansel", "ansel"), mac.source, mac.params)
    run(fast_pull_command(small_mac, "v1"))
    assert small_mac.active() == "v1.0.0"
    ballast, faults = small_disk / "ballast", []
    free = os.statvfs(small_disk).f_bavail * 4096
    for left in range(0, 8_000_000, 400_000):
        with ballast.open("wb") as file:
            file.write(b"\0" * max(0, free - left))
        result = run(fast_pull_command(small_mac, "v2", min_free=-(1 << 40)))
        assert small_mac.active() in ("v1.0.0", "v2.0.0")
        assert small_mac.leftovers() == []
        ballast.unlink()
        if result.returncode == 0:
            break
        assert_one_error(result)
        faults.append(result.stderr)
    assert small_mac.active() == "v2.0.0"
    assert sum("No space left on device" in fault for fault in faults) >= 3


def test_a_file_size_limit_changes_nothing(mac: Mac) -> None:
    mac.pull("v1")
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]
    assert_one_error(run([*limited, *fast_pull_command(mac, "v2")]))
    assert (mac.active(), mac.leftovers()) == ("v1.0.0", [])


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start an S3 server on loopback with a bucket; yield the environment of its clients."""
    missing = [name for name in ("dvc_s3", "moto", "flask", "flask_cors") if not find_spec(name)]
    if missing:
        pytest.skip(f"S3 is tried with dvc-s3, moto, flask and flask-cors; {missing[0]} is missing")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, time; from moto.server import ThreadedMotoServer as Server; "
        "Server('127.0.0.1', int(sys.argv[1])).start(); time.sleep(3600)"
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
        "import time, boto3\nfor _ in range(6000):\n  try:\n    boto3.client('s3')"
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


def test_a_version_is_pulled_from_s3(released: Project, mac: Mac, bucket: dict[str, str]) -> None:
    released.run("dvc", "remote", "add", "-q", "--local", "-f", "s3", "s3://versions/store")
    pushed = subprocess.run(
        ["dvc", "push", "-q", "train@ansel", "-r", "s3"],
        cwd=released.folder,
        capture_output=True,
        text=True,
        env=released.env | bucket,
    )
    assert pushed.returncode == 0, pushed.stderr
    result = run(pull_command(mac, "v2", "--remote_url", "s3://versions/store"), **bucket)
    assert result.returncode == 0, result.stderr
    assert mac.active() == "v2.0.0"
    assert "ClientSession" not in result.stderr
    not_pushed = run(pull_command(mac, "v1", "--remote_url", "s3://versions/store"), **bucket)
    assert_one_error(not_pushed, "ansel@v1.0.0", "is not in the DVC remote", "dvc push train@ansel")
    no_bucket = run(pull_command(mac, "v1", "--remote_url", "s3://nowhere/store"), **bucket)
    assert_one_error(no_bucket, "ansel@v1.0.0")
    assert mac.active() == "v2.0.0"
