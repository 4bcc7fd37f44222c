"""What must not be lost: a run that is killed, stopped, or of something else than it was."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks.crash_recovery import command, killed, outputs, run
from mondrian.core.errors import TrainingError
from mondrian.training.checkpoint import Checkpoint, CheckpointState, TrainingProgress
from tests.conftest import ROOT, assert_one_error


def state(step: int = 3) -> CheckpointState:
    numbers = {"a": mx.array([1.0, 2.0]), "b.0": mx.array([[3.0]])}
    progress = TrainingProgress(step, 1, step, log=[{"step": step, "loss": 0.1}])
    return CheckpointState(progress, numbers, {"step": mx.array(3, mx.uint64)}, {})


def test_a_checkpoint_gives_back_what_it_took(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "deep" / "run.safetensors", {"base": "abc"})
    assert kept.load() is None
    kept.save(state())
    found = kept.load()
    assert found is not None
    assert found.progress == state().progress
    assert found.adapter.keys() == {"a", "b.0"}
    assert bool(mx.array_equal(found.adapter["a"], mx.array([1.0, 2.0])))
    assert found.optimizer["step"].dtype == mx.uint64
    assert found.best == {}
    kept.remove()
    assert kept.load() is None


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    Checkpoint(path, {"train.lora_r": 16, "base": "a" * 64, "mlx": "1"}).save(state())
    other = Checkpoint(path, {"train.lora_r": 8, "base": "b" * 64, "mlx": "1"})
    with pytest.raises(TrainingError) as error:
        other.load()
    told = str(error.value)
    assert "base (aaaaaaaa…, now bbbbbbbb…), train.lora_r (16, now 8)" in told
    assert "mlx" not in told.split("with other")[1]
    assert "delete the file to begin anew" in told


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    kept = Checkpoint(tmp_path / "run.safetensors", {})
    kept.save(state())
    kept.path.write_bytes(kept.path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match="is damaged .*delete it to begin anew"):
        kept.load()


@pytest.fixture(scope="module")
def undisturbed(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter of a run that nothing happened to, and its seconds."""
    work = tmp_path_factory.mktemp("undisturbed")
    seconds = run(command(prepared_dir, work))
    return outputs(work / "adapter"), seconds


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    prepared_dir: Path, undisturbed: Any, tmp_path: Path
) -> None:
    wanted, seconds = undisturbed
    told = command(prepared_dir, tmp_path)
    for share in (0.55, 0.7, 0.85):  # each goes on where the one before was killed
        killed(told, share * seconds)
    run(told)
    assert outputs(tmp_path / "adapter") == wanted
    assert not list((tmp_path / "cache/train").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(
    prepared_dir: Path, undisturbed: Any, tmp_path: Path
) -> None:
    told = command(prepared_dir, tmp_path)
    params = Path(told[-1])
    params.write_text(
        re.sub(r"checkpoint_steps: \d+", "checkpoint_steps: 1000", params.read_text())
    )
    process = subprocess.Popen(told, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with process:
        _until_training(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    (kept,) = (tmp_path / "cache/train").rglob("checkpoint.safetensors")
    assert not (tmp_path / "adapter").exists()
    text = params.read_text()
    params.write_text(text.replace("lora_alpha: 32", "lora_alpha: 64"))
    refused = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert_one_error(refused, kept, "train.lora_alpha (32", "now 64", "delete the file")
    params.write_text(text)
    run(told)
    assert outputs(tmp_path / "adapter") == undisturbed[0]


def _until_training(process: "subprocess.Popen[str]") -> None:
    """Read what it says until the bar shows a step."""
    assert process.stderr is not None
    seen, until = "", time.monotonic() + 60
    while not re.search(r"train:.*[1-9]\d*/\d+.*loss", seen):
        assert process.poll() is None, seen
        assert time.monotonic() < until
        seen += process.stderr.read(1)


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(
    prepared_dir: Path, undisturbed: Any, tmp_path: Path
) -> None:
    told = command(prepared_dir, tmp_path)
    params = Path(told[-1])
    text = re.sub(r"lora_dropout: \S+", "lora_dropout: 0.0", params.read_text())
    params.write_text(text)
    run(told)
    one = (tmp_path / "adapter/training_log.jsonl").read_text()
    params.write_text(re.sub(r"num_processes: 1 ", "num_processes: 2 ", text))
    run(told)
    two = (tmp_path / "adapter/training_log.jsonl").read_text()
    losses = [[float(x) for x in re.findall(r'loss": ([\d.]+)', log)] for log in (one, two)]
    assert len(losses[0]) > 10
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


ALONE = """
import os
import mondrian.model.cpu.openblas
import mlx.core as mx
from mondrian.training import distributed
world = distributed.join_process_group(3)
if world.rank == 1:
    import time
    time.sleep(30)
world.sum({"a": mx.ones(3)})
"""


@pytest.mark.slow
def test_a_rank_that_does_not_come_ends_the_run(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = subprocess.run(
        _parent(tmp_path, ALONE), capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert ended.returncode == 1
    assert "rank 0 waited 3 s for another" in ended.stderr
    assert "collective_timeout_seconds" in ended.stderr
    assert time.monotonic() - started < 25


FAILING = """
import mondrian.model.cpu.openblas
from mondrian.training import distributed
from mondrian.core.errors import TrainingError, run
def main():
    world = distributed.join_process_group(30)
    if world.rank == 1:
        raise TrainingError("it went wrong")
    import time
    time.sleep(20)
run(main)
"""


def _parent(folder: Path, code: str) -> list[str]:
    script = folder / "parent.py"
    script.write_text(
        "import sys\nfrom mondrian.training import distributed\n"
        "from mondrian.core.errors import run\n"
        f"run(lambda: distributed.run_local_ranks([sys.executable, '-c', {code!r}], 2))\n"
    )
    return [sys.executable, str(script)]


@pytest.mark.slow
def test_a_rank_that_fails_is_an_error_not_a_stop(tmp_path: Path) -> None:
    ended = subprocess.run(
        _parent(tmp_path, FAILING), capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert ended.returncode == 1
    assert "error: it went wrong" in ended.stderr
    assert "error: a process of this run failed" in ended.stderr


ENDLESS = """
import os, pathlib, time
import mondrian.model.cpu.openblas
from mondrian.training import distributed
distributed.join_process_group(60)
pathlib.Path(os.environ["PIDS"], str(os.getpid())).touch()
time.sleep(60)
"""


@pytest.mark.slow
def test_ranks_end_when_what_started_them_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    env = os.environ | {"PIDS": str(pids)}
    with subprocess.Popen(_parent(tmp_path, ENDLESS), cwd=ROOT, env=env) as parent:
        until = time.monotonic() + 60
        while len(list(pids.iterdir())) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        parent.kill()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid.name}/cmdline").exists() for pid in pids.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.2)
