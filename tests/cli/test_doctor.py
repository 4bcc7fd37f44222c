"""mondrian doctor: verdicts, the table that goes into an issue, and real runs."""

import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import mlx.core as mx
import pytest

import mondrian
from mondrian.cli.doctor import find_project
from mondrian.core.errors import MondrianError
from mondrian.doctor import machine
from mondrian.doctor.check import Check, hide_paths, print_checks
from mondrian.doctor.processes import WorkerOutput, check_type
from mondrian.doctor.worker import device, self_test
from mondrian.model.device import DEVICE
from tests.conftest import ROOT
from tests.waiting import PATIENCE


@pytest.mark.parametrize(
    ("check", "verdict", "advice"),
    [
        (machine.check_disk(0.9), "failed", "make needs 1.3 GB"),
        (machine.check_disk(5.0), "warning", "Qwen3-VL-4B needs 12 GB"),
        (machine.check_disk(50.0), "ok", ""),
        (machine.check_memory(8.0, 1.2), "warning", "end other programs"),
        (machine.check_memory(8.0, 5.0), "ok", ""),
        (machine.check_macos("13.6.1", "arm64"), "failed", "macOS 14 or later"),
        (machine.check_macos("14.5", "arm64"), "warning", "macOS 15"),
        (machine.check_macos("15.1", "arm64"), "ok", ""),
        (machine.check_macos("15.1", "x86_64"), "failed", "Apple silicon"),
        (machine.check_python((3, 10, 2)), "failed", "3.11 to 3.13"),
        (machine.check_python((3, 14, 0)), "failed", "3.11 to 3.13"),
        (machine.check_python((3, 13, 1)), "ok", ""),
        (machine.check_program("no-such-program"), "failed", "install it"),
        (machine.check_program("git"), "ok", ""),
        (
            device.check_driver("NVRM version: Module  575.51.03  Thu", 580),
            "failed",
            "580 or later",
        ),
        (device.check_driver("Kernel Module  580.65.06", 580), "ok", ""),
        (device.check_driver("", 580), "warning", "nvidia-smi"),
    ],
)
def test_a_check_has_a_verdict_and_says_what_to_do(check: Check, verdict: str, advice: str) -> None:
    assert check.verdict == verdict
    assert advice in check.advice
    assert bool(check.advice) == (verdict != "ok")


def test_the_wired_limit_is_mondrians_and_the_systems() -> None:
    assert device.describe_wired_limit(None, "0") == "none (macOS 14), system's limit: the default"
    assert device.describe_wired_limit(12 * 10**9, "24576") == "12.0 GB, system's limit: 24.6 GB"


def render(*checks: Check) -> list[str]:
    file = StringIO()
    print_checks(checks, file)
    return file.getvalue().splitlines()


def test_the_table_is_markdown_of_at_most_100_columns() -> None:
    long_result = "x | " * 30 + "end"
    lines = render(
        Check("memory", "8.0 GB"),
        Check("bfloat16: kill, resume", long_result, "failed", "open an issue with this table"),
    )
    table = lines[:4]
    assert len({len(line) for line in table}) == 1
    assert len(table[0]) <= 100
    assert all(line.count("|") == 4 and line.startswith("|") for line in table)
    assert set(table[1]) == {"|", "-"}
    assert lines[4] == ""
    assert lines[5].startswith("- bfloat16: kill, resume, failed: x | x")
    assert lines[5].endswith("end; open an issue with this table")
    assert lines[-1] == "1 ok, 0 warning, 1 failed"


def test_the_table_has_no_path_of_a_person(tmp_path: Path) -> None:
    project, home = tmp_path / "home/maria/mondrian", tmp_path / "home/maria"
    check = Check("MLX", f"{project}/models is missing", "failed", f"see {home}/.cache")
    hidden = hide_paths(check, project, home)
    assert (hidden.result, hidden.advice) == ("./models is missing", "see ~/.cache")
    assert hide_paths(check, project, Path("/")).advice == f"see {home}/.cache"


def test_a_crash_is_reported_by_its_signal_and_last_message() -> None:
    crash = WorkerOutput([], -signal.SIGABRT, ["Caused GPU Timeout Error", "terminating"])
    assert crash.describe_end() == "SIGABRT: terminating"
    assert "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1" in crash.advise()
    missing = WorkerOutput([], 1, ["resuming", "error: no base model at x"])
    assert (missing.describe_end(), missing.advise()) == ("no base model at x", "")
    params = WorkerOutput([], 1, ["error: params.yaml: 2 problems", "  a is missing", "  b is 0"])
    assert params.describe_end() == "params.yaml: 2 problems: a is missing; b is 0"
    assert params.advise() == ""
    unknown = WorkerOutput([], 1, ["ValueError: shapes"])
    assert unknown.advise() == "open an issue with this table"


def test_kernels_that_the_environment_chooses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert device.describe_openblas() == "OpenBLAS"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert device.describe_openblas() == "OpenBLAS (OPENBLAS_CORETYPE=Prescott)"


def test_equal_runs_are_the_same_bytes_or_equal_within_a_tolerance() -> None:
    weights = {"a.lora_A": mx.ones((4, 4)), "a.lora_B": mx.full((4, 4), 0.01)}
    close = weights | {"a.lora_B": weights["a.lora_B"] + 1e-6}
    same, near = (self_test.compare(run, weights) for run in (weights, close))
    assert self_test.check_equality("repeat", same, 0.0).result == "the same bytes"
    failed = self_test.check_equality("repeat", near, 0.0)
    assert (failed.verdict, failed.result) == (
        "failed",
        "differs by 1e-06, relative to the update 1e-04",
    )
    equal = self_test.check_equality("repeat", near, 1e-2)
    assert (equal.verdict, equal.result.split(",")[0]) == ("ok", "equal to 1e-06")


@pytest.mark.slow
def test_a_resumed_run_needs_the_checkpoint_of_the_killed_one(tmp_path: Path) -> None:
    test = self_test.prepare(ROOT, tmp_path)
    reference = test.train()
    unchanged = self_test.compare(reference.weights, reference.weights)
    check = self_test.check_resumed(test, reference, unchanged)
    assert (check.verdict, check.result) == ("failed", "no checkpoint of the first step")


def test_it_runs_in_any_folder_of_a_machine_with_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_project() == ROOT
    monkeypatch.setattr(mondrian, "__file__", str(tmp_path / "site-packages/mondrian/__init__.py"))
    with pytest.raises(MondrianError, match="run mondrian doctor in a checkout"):
        find_project()


def run_doctor(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mondrian", "doctor", *args]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | env, timeout=PATIENCE
    )


@pytest.mark.slow
@pytest.mark.parametrize(("forced", "float_type"), [("", "float32"), ("gpu-bfloat16", "bfloat16")])
def test_all_checks_of_this_machine_pass(tmp_path: Path, forced: str, float_type: str) -> None:
    run = run_doctor(tmp_path, MONDRIAN_DEVICE=forced, HOME=str(ROOT.parent))
    assert run.returncode == 0, run.stdout + run.stderr
    names = [line.split("|")[1].strip() for line in run.stdout.splitlines() if "|" in line]
    expected = ["two steps", "repeat", "kill, resume", "adapter", "critique"]
    assert names[-5:] == [f"{float_type}: {name}" for name in expected]
    assert {"mondrian", "Python", "make", "git", "MLX", "kernels", "memory limits"} <= set(names)
    assert ", 0 failed" in run.stdout
    if not DEVICE.is_gpu:
        assert run.stdout.count("the same bytes") == 2
    assert str(ROOT) not in run.stdout
    assert str(ROOT.parent) not in run.stdout


@pytest.mark.slow
def test_a_setting_that_mlx_cannot_start_with_fails_with_status_1(tmp_path: Path) -> None:
    run = run_doctor(tmp_path, "--json", MONDRIAN_DEVICE="gpu-int8")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    failed = [check for check in json.loads(run.stdout) if check["verdict"] == "failed"]
    assert [check["name"] for check in failed] == ["MLX"]
    assert "MONDRIAN_DEVICE is 'gpu-int8'" in failed[0]["result"]


@pytest.mark.slow
def test_a_missing_base_is_one_failed_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (check,) = check_type(tmp_path, "float32", lambda step: None)
    assert (check.name, check.verdict) == ("float32: self-test", "failed")
    assert "no base model at" in check.result
    assert check.advice == ""
