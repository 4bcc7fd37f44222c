"""benchmarks/gpu.py: what a run keeps, what its table says, and that each part works."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import Part, run_part, run_parts
from benchmarks.gpu_report import compare_with_aims, format_report, training_results
from tests.conftest import ROOT
from tests.waiting import PATIENCE

HANGING = "import time; print('{\"rate\": 3}', flush=True); time.sleep(3600)"
FAILING = "print('no json'); raise SystemExit(7)"


def python_part(name: str, code: str, seconds: float = 60) -> Part:
    return Part(name, (sys.executable, "-c", code), seconds, {"system": "mondrian"})


def test_results_of_a_part_that_is_stopped_are_kept(tmp_path: Path) -> None:
    parts = [python_part("hangs", HANGING, 2.0), python_part("fails", FAILING)]
    records = run_parts(parts, 60, tmp_path)
    assert records[0] == {"part": "hangs", "system": "mondrian", "rate": 3}
    assert [r["end"] for r in records if "end" in r] == [
        "stopped at its time limit",
        "exit status 7",
    ]
    assert json.loads((tmp_path / "gpu.json").read_text()) == records
    assert "no json" in (tmp_path / "gpu.log").read_text()
    report = format_report(records)
    assert "hangs: system mondrian, rate 3" in report
    assert "fails: exit status 7; see gpu.log" in report


def test_a_part_ends_with_the_run_and_a_cut_line_is_no_result(tmp_path: Path) -> None:
    code = f"import os; print('{{\"id\":', flush=True); print(os.getpid()); {HANGING}"
    with (tmp_path / "log").open("w+") as log:
        records = run_part(python_part("hangs", code, 600), 600, log)
        assert next(records)["rate"] == 3
        records.close()  # type: ignore[attr-defined]
        log.seek(0)
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.readlines()[2]), 0)


def test_a_part_without_time_is_not_started(tmp_path: Path) -> None:
    (record,) = run_parts([python_part("late", HANGING)], 1.0, tmp_path)
    assert record["end"] == "no time was left"


def make_training(system: str, seconds: float, peak: float, **extra: Any) -> dict[str, Any]:
    steps = [9.0, 8.0, seconds, seconds]
    run = {"part": "train", "system": system, "base": "float", "batch": 2, "seconds": steps}
    return run | {"losses": [2.0, 1.0], "peak_gb": peak} | extra


def test_training_is_compared_with_the_rate_of_products_and_with_mlx_vlm() -> None:
    plan = {"operations": 4e12, "tokens": 4096, "planned_gb": 11.0, "tower_seconds": 0.3}
    records = [
        {"part": "products", "operations_per_second": 1e13},
        make_training("mondrian", 0.6, 10.0, **plan),
        make_training("mlx-vlm", 3.2, 25.0),
    ]
    ours, theirs = training_results(records)
    assert (ours["tokens_per_second"], ours["share_of_rate"]) == (5120, 0.5)  # 0.6 s + 0.3 * 2 / 3
    assert (theirs["tokens_per_second"], theirs["share_of_rate"]) == (1280, 0.125)
    assert (ours["plan_error"], theirs["plan_error"]) == (0.1, None)
    lines = list(compare_with_aims([ours, theirs]))
    assert lines[0].endswith("products: 0.50 in the worst of 1 runs (aim: at least 0.5)")
    assert lines[1] == "tokens/s, times mlx-vlm's: 4.00 in the worst of 1 runs (aim: at least 2)"
    assert lines[2] == "peak, times mlx-vlm's: 0.40 in the worst of 1 runs (aim: at most 0.5)"
    assert "not measured" in next(iter(compare_with_aims([])))


@pytest.mark.slow
def test_a_small_run_trains_on_whatever_device_this_is(tmp_path: Path) -> None:
    parts = ["products", "bases", "train", "tests"]
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--minutes", "20"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--parts", *parts],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "gpu.json").read_text())
    ends = {r["part"]: r["end"] for r in records if "end" in r}
    assert set(ends.values()) == {"exit status 0"}, (tmp_path / "gpu.log").read_text()
    runs = {(r["system"], r["base"], r["batch"]) for r in training_results(records)}
    assert runs == {
        (system, base, batch)
        for system in ("mondrian", "mlx-vlm")
        for base in ("float", "4bit")
        for batch in (1, 2)
    }
    assert "| mondrian | float | 2 |" in done.stdout
