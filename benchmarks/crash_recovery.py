"""Kill training at random moments and resume it: python benchmarks/crash_recovery.py [20] [--orpo]

Reads data/prepared/ansel (`dvc repro prepare`) and trains on its first rows: once without
interruption, then until 20 runs were killed with SIGKILL at random moments and started again; their
adapter and log must have the same bytes as those of the first run. That holds on a CPU;
benchmarks/gpu.py measures the difference on a GPU. With --orpo some rows have a worse critique.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mondrian.critique.preference_rows import PreferenceRow
from mondrian.critique.rows import read_rows

ROOT = Path(__file__).parents[1]
NUM_ROWS = {"train": 12, "val": 3}


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file in an adapter folder, by name."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def run_to_end(command: Sequence[str]) -> float:
    """Run a command to its end; return the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1800)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.monotonic() - started


def run_and_kill(command: Sequence[str], seconds: float) -> bool:
    """Start a command and kill it after some seconds; return False if it had ended before."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def make_train_command(data: Path, work_dir: Path) -> list[str]:
    """Return the call of stages/train.py that saves a checkpoint at every step.

    With a file preferences.jsonl next to the rows the method is ORPO.
    """
    params, pairs = (ROOT / "params.yaml").read_text(), data / "preferences.jsonl"
    method = "orpo" if pairs.exists() else "sft"
    for name, value in (("epochs", 2), ("checkpoint_steps", 1), ("method", method)):
        head, tail = params.split(f"  {name}: ", 1)
        params = f"{head}  {name}: {value} #{tail.split('#', 1)[1]}"
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / "params.yaml").write_text(params)
    flags = {
        "train_data": data / "train.json",
        "val_data": data / "val.json",
        "preferences": pairs,
        "output_dir": work_dir / "adapter",
        "metrics": work_dir / "metrics/train.json",
        "cache_dir": work_dir / "cache",
        "params": work_dir / "params.yaml",
    }
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "stages/train.py"), *arguments]


def kill_and_resume(
    data: Path, work_dir: Path, expected: dict[str, bytes], seconds: float
) -> bool | None:
    """Kill a run after some seconds and resume it; None if it had ended before.

    Return whether it ends with the expected files and no checkpoint.
    """
    train = make_train_command(data, work_dir)
    is_identical = None
    if run_and_kill(train, seconds):
        run_to_end(train)
        checkpoints = list((work_dir / "cache/train").rglob("*.safetensors"))
        is_identical = read_outputs(work_dir / "adapter") == expected and not checkpoints
    shutil.rmtree(work_dir)
    return is_identical


def write_rows(folder: Path) -> Path:
    """Write the first rows of ansel's train and val sets; photo paths are relative to ROOT."""
    for split, count in NUM_ROWS.items():
        prepared = ROOT / f"data/prepared/ansel/training_data_ansel_{split}.json"
        (folder / f"{split}.json").write_text(json.dumps(json.loads(prepared.read_text())[:count]))
    return folder


def write_pairs(folder: Path) -> None:
    """Write a worse critique of some rows of each part: those of another photo."""
    lines = []
    for part in NUM_ROWS:
        rows = read_rows(folder / f"{part}.json")
        for row, other in zip(rows[::2], rows[1::2], strict=False):
            pair = PreferenceRow.prefer(row, other.messages[-1]["content"])
            lines.append(pair.format_line({}) + "\n")
    (folder / "preferences.jsonl").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--orpo", action="store_true", help="train with pairs")
    args = parser.parse_args()
    num_kills, rng = args.kills, random.Random()
    with tempfile.TemporaryDirectory() as tmp_dir:
        data, work_dir = write_rows(Path(tmp_dir)), Path(tmp_dir) / "work"
        if args.orpo:
            write_pairs(data)
        seconds = run_to_end(make_train_command(data, work_dir))
        expected = read_outputs(work_dir / "adapter")
        shutil.rmtree(work_dir)
        print(f"not interrupted: {seconds:.1f} s")
        results: list[bool] = []
        while len(results) < num_kills:
            delay = rng.uniform(0.5, seconds)
            is_identical = kill_and_resume(data, work_dir, expected, delay)
            if is_identical is not None:
                results.append(is_identical)
                outcome = "identical" if is_identical else "DIFFERENT"
                print(f"{len(results):2}: killed after {delay:.2f} s, {outcome}", flush=True)
    print(f"{sum(results)} of {num_kills} identical")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
