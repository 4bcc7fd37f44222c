"""Runs that are killed, stopped, or resumed with other settings."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.crash_recovery import make_train_command, read_outputs, run_to_end, write_pairs
from mondrian.core.errors import TrainingError
from mondrian.training.checkpoint import Checkpoint, CheckpointState
from mondrian.training.progress import TrainingProgress
from tests.conftest import ROOT
from tests.tolerances import FLOAT_TYPE
from tests.waiting import PATIENCE, is_alive, wait_for


def make_state(step: int = 3) -> CheckpointState:
    tensors = {"a": mx.array([1.0, 2.0]), "b.0": mx.array([[3.0]])}
    progress = TrainingProgress(step, 1, step, log=[{"step": step, "loss": 0.1}])
    return CheckpointState(progress, tensors, {"step": mx.array(3, mx.uint64)}, {})


def test_a_checkpoint_loads_what_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "deep", {"base": "abc"})
    assert checkpoint.load() is None
    checkpoint.save(make_state())
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded.progress == make_state().progress
    assert loaded.adapter.keys() == {"a", "b.0"}
    assert bool(mx.array_equal(loaded.adapter["a"], mx.array([1.0, 2.0])))
    assert loaded.optimizer["step"].dtype == mx.uint64
    assert loaded.best == {}
    checkpoint.remove()
    assert checkpoint.load() is None


def test_a_changed_setting_starts_over_and_says_which(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path, {"train.lora_r": 16, "base": "a" * 64, "mlx": "1"})
    assert first.describe_other_run() == ""
    first.save(make_state(37))
    changed = Checkpoint(tmp_path, {"train.lora_r": 8, "base": "b" * 64, "mlx": "1"})
    assert changed.load() is None
    message = changed.describe_other_run()
    assert "starts over: the run interrupted at step 37 had other settings: " in message
    assert "base (aaaaaaaa…, now bbbbbbbb…), train.lora_r (16, now 8); restore" in message
    assert f"{first.path} is kept until" in message
    assert "\n" not in message
    changed.save(make_state(2))
    assert changed.describe_other_run() == ""  # resumed from now on


def test_a_setting_that_is_restored_resumes_its_checkpoint(tmp_path: Path) -> None:
    first, second = (Checkpoint(tmp_path, {"train.lora_r": rank}) for rank in (16, 8))
    first.save(make_state(37))
    second.save(make_state(2))
    state = first.load()
    assert state is not None
    assert state.progress.step == 37
    assert first.describe_other_run() == ""


def test_of_earlier_checkpoints_the_latest_stays_until_the_adapter_is_saved(tmp_path: Path) -> None:
    checkpoints = [Checkpoint(tmp_path, {"train.lora_r": rank}) for rank in (4, 8, 16)]
    for age, checkpoint in zip((3, 2, 1), checkpoints, strict=True):
        checkpoint.save(make_state())
        os.utime(checkpoint.path, (time.time() - age,) * 2)
    new = Checkpoint(tmp_path, {"train.lora_r": 32})
    assert "train.lora_r (16, now 32)" in new.describe_other_run()
    new.save(make_state())
    assert sorted(tmp_path.iterdir()) == sorted([checkpoints[2].path, new.path])
    new.remove_others()
    assert list(tmp_path.iterdir()) == [new.path]


def test_a_damaged_checkpoint_of_other_settings_does_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-old.safetensors").write_bytes(b"half")
    checkpoint = Checkpoint(tmp_path, {})
    assert "starts over: " in (message := checkpoint.describe_other_run())
    assert "checkpoint-old.safetensors is damaged" in message
    assert checkpoint.load() is None


@pytest.mark.parametrize(
    "about",
    [json.dumps({"identity": identity, "progress": {"step": 1}}) for identity in (["a"], "a", None)]
    + ["[]", "[" * 100_000],
    ids=["list", "string", "null", "no mapping", "deep"],
)
def test_a_checkpoint_of_another_shape_counts_as_damaged(tmp_path: Path, about: str) -> None:
    path = tmp_path / "checkpoint-old.safetensors"
    save_file({"a": np.ones(1)}, path, {"about": about})
    message = Checkpoint(tmp_path, {"base": "b"}).describe_other_run()
    assert message == f"training starts over: {path} is damaged"


def test_only_files_count_as_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-link.safetensors").symlink_to(tmp_path / "missing")
    (tmp_path / "checkpoint-folder.safetensors").mkdir()
    checkpoint = Checkpoint(tmp_path, {})
    assert checkpoint.describe_other_run() == ""
    checkpoint.save(make_state())
    checkpoint.remove_others()
    assert checkpoint.load() is not None


@pytest.mark.parametrize("length", [0, 10, 200, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, length: int) -> None:
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(make_state())
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:length])
    with pytest.raises(TrainingError, match="is damaged .*delete it to start over"):
        checkpoint.load()


@pytest.fixture(scope="module")
def undisturbed(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the adapter of a run that is not interrupted."""
    work = tmp_path_factory.mktemp("undisturbed")
    run_to_end(make_train_command(prepared_dir, work))
    return read_outputs(work / "adapter")


@pytest.mark.device
@pytest.mark.skipif(
    FLOAT_TYPE == mx.float16, reason="takes a minute; test_trainer.py resumes in float16"
)
@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    prepared_dir: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    train_command = make_train_command(prepared_dir, tmp_path)
    kills = sum(_kill_after_saves(train_command, tmp_path, 2) for _ in range(3))
    assert kills > 0
    run_to_end(train_command)
    assert read_outputs(tmp_path / "adapter") == undisturbed
    assert not list((tmp_path / "cache/train").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_run_with_pairs_killed_again_and_again_ends_with_the_same_bytes(
    prepared_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared_dir, tmp_path / "data")
    write_pairs(tmp_path / "data")
    first = make_train_command(tmp_path / "data", tmp_path / "first")
    run_to_end(first)
    expected = read_outputs(tmp_path / "first/adapter")
    assert json.loads(expected["recipe.json"])["preference_pairs"] == 6
    second = make_train_command(tmp_path / "data", tmp_path / "second")
    kills = sum(_kill_after_saves(second, tmp_path / "second", 2) for _ in range(3))
    assert kills > 0
    run_to_end(second)
    assert read_outputs(tmp_path / "second/adapter") == expected


def _kill_after_saves(command: list[str], folder: Path, count: int) -> bool:
    """Kill a run once it has saved its checkpoint; return False if it ended before."""
    save_times: set[int] = set()

    def has_saved() -> bool:
        for path in (folder / "cache/train").rglob("checkpoint-*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # the run has ended
                save_times.add(path.stat().st_mtime_ns)
        return len(save_times) > count or process.poll() is not None

    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_for(has_saved)
        process.kill()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_saves_and_resumes(
    prepared_dir: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    train_command = make_train_command(prepared_dir, tmp_path)
    params = Path(train_command[-1])
    params.write_text(
        re.sub(r"checkpoint_steps: \d+", "checkpoint_steps: 1000", params.read_text())
    )
    process = subprocess.Popen(train_command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with process:
        _wait_for_first_epoch(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    (checkpoint,) = (tmp_path / "cache/train").rglob("checkpoint-*.safetensors")
    assert not (tmp_path / "adapter").exists()
    text = params.read_text()
    params.write_text(
        re.sub("checkpoint_steps: 1000", "checkpoint_steps: 1", text).replace(
            "lora_alpha: 32", "lora_alpha: 64"
        )
    )
    process = subprocess.Popen(train_command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with process:
        output = _wait_for_first_epoch(process)
        process.kill()
    assert "training starts over: the run interrupted at step " in output
    assert "other settings: train.lora_alpha (32" in output
    assert checkpoint.exists()
    params.write_text(text)
    run_to_end(train_command)
    assert read_outputs(tmp_path / "adapter") == undisturbed
    assert not list((tmp_path / "cache/train").rglob("*.safetensors"))


def _wait_for_first_epoch(process: "subprocess.Popen[str]") -> str:
    """Read stderr until the first epoch is over; return what was read."""
    assert process.stderr is not None
    output = ""
    for line in process.stderr:
        output += line
        if "epoch 1 of" in line:
            return output
    raise AssertionError(output)


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(
    prepared_dir: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    train_command = make_train_command(prepared_dir, tmp_path)
    params = Path(train_command[-1])
    text = re.sub(r"lora_dropout: \S+", "lora_dropout: 0.0", params.read_text())
    params.write_text(text)
    run_to_end(train_command)
    single = (tmp_path / "adapter/training_log.jsonl").read_text()
    params.write_text(re.sub(r"num_processes: 1 ", "num_processes: 2 ", text))
    run_to_end(train_command)
    double = (tmp_path / "adapter/training_log.jsonl").read_text()
    losses = [[float(x) for x in re.findall(r'loss": ([\d.]+)', log)] for log in (single, double)]
    assert len(losses[0]) > 10
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


MISSING_RANK = """
import os
import mondrian.model.cpu.openblas
import mlx.core as mx
from mondrian.training import distributed
world = distributed.join_process_group(3)
if world.rank == 1:
    import time
    time.sleep(3600)
world.sum({"a": mx.ones(3)})
"""


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_run(tmp_path: Path) -> None:
    process = subprocess.run(
        _parent_command(tmp_path, MISSING_RANK),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert process.returncode == 1
    assert "rank 0 waited 3 s for another" in process.stderr
    assert "collective_timeout_seconds" in process.stderr


FAILING = """
import mondrian.model.cpu.openblas
from mondrian.training import distributed
from mondrian.core.errors import TrainingError, run_command
def main():
    world = distributed.join_process_group(30)
    if world.rank == 1:
        raise TrainingError("it went wrong")
    import time
    time.sleep(3600)
run_command(main)
"""


def _parent_command(folder: Path, code: str) -> list[str]:
    script = folder / "parent.py"
    script.write_text(
        "import sys\nfrom mondrian.training import distributed\n"
        "from mondrian.core.errors import run_command\n"
        f"run_command(lambda: distributed.run_local_ranks([sys.executable, '-c', {code!r}], 2))\n"
    )
    return [sys.executable, str(script)]


@pytest.mark.slow
def test_a_rank_that_fails_is_an_error(tmp_path: Path) -> None:
    process = subprocess.run(
        _parent_command(tmp_path, FAILING),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert process.returncode == 1
    assert "error: it went wrong" in process.stderr
    assert "error: a training process failed" in process.stderr


ENDLESS = """
import os, pathlib, time
import mondrian.model.cpu.openblas
from mondrian.training import distributed
distributed.join_process_group(60)
pathlib.Path(os.environ["PIDS"], str(os.getpid())).touch()
time.sleep(3600)
"""


@pytest.mark.slow
def test_ranks_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    env = os.environ | {"PIDS": str(pids)}
    with subprocess.Popen(_parent_command(tmp_path, ENDLESS), cwd=ROOT, env=env) as parent:
        wait_for(lambda: len(list(pids.iterdir())) == 2)
        parent.kill()
    wait_for(lambda: not any(is_alive(int(pid.name)) for pid in pids.iterdir()))
