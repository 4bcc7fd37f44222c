"""Training killed with -9 at random moments and started again: python benchmarks/kill.py [20]

Reads data/prepared/ansel (`dvc repro prepare`) and trains on its first rows, once undisturbed, then
once for each moment: killed there, started again, its adapter and log held against the first's.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS, VAL = 12, 3


def outputs(folder: Path) -> dict[str, bytes]:
    """Name and bytes of each file of an adapter's folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def run(command: Sequence[str]) -> float:
    """Run to its end; the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.monotonic() - started


def killed(command: Sequence[str], seconds: float) -> bool:
    """Start, and kill with -9 after so many seconds; False where it had ended before."""
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


def command(data: Path, work: Path) -> list[str]:
    """stages/train.py on some rows, saving a checkpoint at each step."""
    params = (ROOT / "params.yaml").read_text()
    for name, value in (("epochs", 2), ("checkpoint_steps", 1)):
        head, tail = params.split(f"  {name}: ", 1)
        params = f"{head}  {name}: {value} #{tail.split('#', 1)[1]}"
    work.mkdir(parents=True, exist_ok=True)
    (work / "params.yaml").write_text(params)
    flags = {
        "train_data": data / "train.json",
        "val_data": data / "val.json",
        "output_dir": work / "adapter",
        "metrics": work / "metrics/train.json",
        "cache_dir": work / "cache",
        "params": work / "params.yaml",
    }
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "stages/train.py"), *given]


def survived(data: Path, work: Path, wanted: dict[str, bytes], seconds: float) -> tuple[bool, bool]:
    """Whether a run killed after `seconds` and started again gives `wanted`; and was killed."""
    told = command(data, work)
    was_killed = killed(told, seconds)
    run(told)
    same = outputs(work / "adapter") == wanted
    left = list((work / "cache/train").rglob("*.safetensors"))
    shutil.rmtree(work)
    return same and not left, was_killed


def some_rows(folder: Path) -> Path:
    """The first rows of ansel's train and val, with paths that count from the project's folder."""
    prepared = ROOT / "data/prepared/ansel"
    for part, count in (("train", ROWS), ("val", VAL)):
        rows = json.loads((prepared / f"training_data_ansel_{part}.json").read_text())[:count]
        (folder / f"{part}.json").write_text(json.dumps(rows))
    return folder


def main() -> None:
    moments = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    draw = random.Random()
    with tempfile.TemporaryDirectory() as scratch:
        data, work = some_rows(Path(scratch)), Path(scratch) / "work"
        seconds = run(command(data, work))
        wanted = outputs(work / "adapter")
        shutil.rmtree(work)
        print(f"undisturbed: {seconds:.1f} s")
        good = 0
        for i in range(moments):
            after = draw.uniform(0.5, seconds)
            same, was_killed = survived(data, work, wanted, after)
            good += same
            how = f"killed after {after:.2f} s" if was_killed else f"ended before {after:.2f} s"
            print(f"{i + 1:2}: {how}, {'identical' if same else 'DIFFERENT'}", flush=True)
    print(f"{good} of {moments} identical")
    sys.exit(good < moments)


if __name__ == "__main__":
    main()
