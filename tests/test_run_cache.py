"""DVC's run cache and checkout: nothing is computed twice, and a failed stage loses nothing."""

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mondrian.data.manifest import Manifest
from tests.clone import SMALL_SAMPLE, Clone, copy_clone
from tests.conftest import ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
ADAPTER = "models/mondrian-tiny-lora-ansel"
CHECKOUT = ("dvc", "checkout", "--allow-missing")  # the shipped sample, which is not used here


@pytest.fixture
def clone(built_clone: Clone, tmp_path: Path) -> Clone:
    """A committed run of the small sample, and a DVC remote."""
    clone = copy_clone(built_clone, tmp_path)
    clone.run("dvc", "remote", "add", "-q", "--default", "store", tmp_path / "store")
    clone.commit("first run")
    return clone


def read_outputs(clone: Clone) -> dict[str, bytes]:
    """Return the files of the adapter and of metrics/."""
    folders = (clone.folder / ADAPTER, clone.folder / "metrics")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(clone.folder)): path.read_bytes() for path in files}


def list_changed(old: dict[str, bytes], new: dict[str, bytes]) -> set[str]:
    """Return the outputs that differ, except those that contain times."""
    timed = ("_timing.json", "comparison_report.json", "report.html")
    names = {name for name in old.keys() | new.keys() if not name.endswith(timed)}
    return {name for name in names if old.get(name) != new.get(name)}


def set_epochs(clone: Clone, epochs: int) -> None:
    replace(clone.folder / "params.yaml", r"epochs: \d+", f"epochs: {epochs}")


def replace(path: Path, pattern: str, text: str) -> None:
    new, count = re.subn(pattern, text, path.read_text())
    assert count == 1
    path.write_text(new)


def assert_a_repetition_gives_the_same(clone: Clone) -> None:
    outputs = read_outputs(clone)
    for stage in ("train@ansel", "evaluate@ansel"):
        clone.run("dvc", "repro", "--force", "--no-run-cache", "--single-item", stage)
    assert list_changed(outputs, read_outputs(clone)) == set()


def assert_checkout_restores(clone: Clone, outputs: dict[str, bytes]) -> None:
    clone.run("git", "checkout", "-q", ".")
    clone.run(*CHECKOUT)
    assert read_outputs(clone) == outputs
    assert "up to date" in clone.run("dvc", "status", "--with-deps", "evaluate@ansel")


def test_settings_that_were_tried_before_are_restored_and_give_the_same_when_repeated(
    clone: Clone, tmp_path: Path
) -> None:
    outputs = read_outputs(clone)
    set_epochs(clone, 1)
    assert "train.epochs" in clone.run("dvc", "params", "diff")
    output = clone.run("dvc", "repro")
    stages = re.findall(r"Running stage '([^']+)'", output)
    assert sorted(stages) == ["crossvalidate@ansel", "evaluate@ansel", "train@ansel"]
    diff = clone.run("dvc", "metrics", "diff").splitlines()
    assert 3 < len(diff) <= 13
    assert any("val_loss" in line for line in diff)
    assert_a_repetition_gives_the_same(clone)
    clone.run("git", "checkout", "-q", "params.yaml")
    output = clone.run("dvc", "repro")
    assert "Running stage" not in output
    assert output.count("is cached - skipping run") == 3
    assert read_outputs(clone) == outputs
    assert clone.run("git", "status", "--short") == ""
    assert clone.run("dvc", "metrics", "diff") == ""
    output = clone.run("dvc", "exp", "run", "-S", "train.epochs=1")
    assert "Running stage" not in output
    # A second clone trains nothing: DVC takes both adapters from the remote. It evaluates the first
    # one, as plots and metrics.json are in git and not in the remote.
    clone.run("git", "commit", "-qam", "one epoch")
    clone.run("dvc", "push", "-q", "--run-cache", "--all-commits")
    other = Clone(tmp_path / "other")
    other.folder.parent.mkdir()
    subprocess.run(["git", "clone", "-q", clone.folder, other.folder], check=True)
    other.run("dvc", "pull", "--run-cache", "--allow-missing")
    assert "up to date" in other.run("dvc", "repro")
    other.run("git", "checkout", "-q", "HEAD~1", "params.yaml")
    output = other.run("dvc", "repro", "--pull")
    assert re.findall(r"Running stage '([^']+)'", output) == ["evaluate@ansel"]
    assert list_changed(outputs, read_outputs(other)) == set()


@pytest.mark.parametrize("with_dvc", [False, True])
def test_a_killed_training_loses_nothing_and_resumes(clone: Clone, with_dvc: bool) -> None:
    outputs = read_outputs(clone)
    params = clone.folder / "params.yaml"
    replace(params, r"checkpoint_steps: \d+", "checkpoint_steps: 1")
    set_epochs(clone, 2)  # another run, which is killed before it ends
    text = params.read_text()
    checkpoints = clone.folder / ".cache/train/mondrian-tiny-lora-ansel"
    with subprocess.Popen(
        ["dvc", "repro", "train@ansel"],
        cwd=clone.folder,
        env=clone.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as dvc:
        wait_for(lambda: list(checkpoints.glob("*.safetensors")) or dvc.poll() is not None)
        stages = psutil.Process(dvc.pid).children(recursive=True)
        for pid in [*([dvc.pid] if with_dvc else []), *(stage.pid for stage in stages)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert dvc.returncode != 0
    assert not (clone.folder / ADAPTER).exists()  # DVC removed it before the stage
    assert_checkout_restores(clone, outputs)
    assert list(checkpoints.glob("*.safetensors"))
    params.write_text(text)
    done = clone.complete("dvc", "repro", "train@ansel")
    assert done.returncode == 0
    assert "training resumes after step " in done.stderr
    assert not list(checkpoints.glob("*.safetensors"))


def test_a_full_disk_in_evaluate_loses_nothing(clone: Clone) -> None:
    outputs = read_outputs(clone)
    replace(clone.folder / "dvc.yaml", r"python stages/evaluate", r"ulimit -f 16 && \g<0>")
    error = clone.fail("dvc", "repro", "evaluate@ansel")
    assert re.search(r"error: File too large: \.cache/evaluate/", error), error
    assert_checkout_restores(clone, outputs)


def test_a_refused_prepare_does_not_block_another_branch(clone: Clone) -> None:
    outputs = read_outputs(clone)
    clone.run("git", "switch", "-qc", "refused")
    replace(clone.folder / "params.yaml", r"min_train: \d+", "min_train: 1000")
    error = clone.fail("dvc", "repro", "prepare@ansel")
    assert "refused_split_report.html shows the counts" in error
    assert (clone.folder / "metrics/ansel/refused_split_report.html").exists()
    clone.run("git", "commit", "-qam", "too few")
    clone.run("git", "switch", "-q", "-")
    clone.run(*CHECKOUT)
    outputs["metrics/ansel/refused_split_report.html"] = (
        clone.folder / "metrics/ansel/refused_split_report.html"
    ).read_bytes()
    assert read_outputs(clone) == outputs


def test_after_a_link_without_a_pair_prepare_does_not_run(clone: Clone, tmp_path: Path) -> None:
    outputs = read_outputs(clone)
    empty = tmp_path / "no photos"
    empty.mkdir()
    replace(clone.folder / "params.yaml", r"source_dir: .+", f"source_dir: {empty}")
    for _ in range(2):  # the second time nothing is taken from the cache
        done = clone.complete("dvc", "repro", "prepare@ansel")
        assert f"none of {SMALL_SAMPLE} finished jobs of 'ansel' gives a pair" in done.stderr
        assert re.findall(r"Running stage '([^']+)'", done.stdout) == ["link@ansel"]
    manifest = Manifest(clone.folder / "data/linked/ansel/training_data_manifest.json")
    assert list(manifest.records()) == []
    assert clone.metrics("ansel", "link")["rejected"] == {"image_missing": SMALL_SAMPLE}
    report = "metrics/ansel/data_report.html"
    assert "gives a pair" in (clone.folder / report).read_text()
    error = clone.fail("dvc", "repro", "--single-item", "prepare@ansel")
    assert f"has no pair; {report} says why" in error
    assert not (clone.folder / "data/prepared/ansel").exists()
    clone.run("git", "checkout", "-q", ".")
    clone.run(*CHECKOUT, "--force")  # DVC has no copy of what the failed stage wrote
    assert_checkout_restores(clone, outputs)


def test_the_committed_lock_is_of_this_code() -> None:
    """After a change of code that a stage uses: `dvc repro`, and commit what it changed."""
    from dvc.repo import Repo  # takes a second

    with Repo(str(ROOT)) as repo:
        stages = repo.index.stages
        assert {stage.name for stage in stages} >= {"application", "link@ansel", "evaluate@okeefe"}
        changed = {
            (stage.name, dep.def_path)
            for stage in stages
            for dep in stage.deps
            if dep.def_path.startswith(("mondrian/", "stages/", "models/base", "params.yaml"))
            and dep.status()
        }
        assert changed == set()
        assert [stage.name for stage in stages if stage.changed_stage()] == []
