"""Measure everything that only a GPU can show, in one run: python benchmarks/gpu.py

--small   mondrian-tiny and short rows on any device, to test the run itself
--minutes the run ends by then; parts are in order of worth
--output  folder that each result is written to as it comes (gpu.json, gpu.log)
--torch   python of an environment with requirements-torch.txt and CUDA
--tokenizer  folder with Qwen3's tokenizer.json; mondrian-tiny's by default
--parts   names of parts; all by default

It needs no network. Each part runs in a process of its own with a time limit: `mondrian doctor`;
rates of products; training of a random Qwen3-VL-4B in bfloat16 and 4 bits on rows of 2,048 tokens,
next to mlx-vlm's trainer and transformers + PEFT; the tests of model, training and worker in
bfloat16; logits next to the CPU's; a killed run; critiques/s; the adapter's overhead; the first
token. On a GPU the results of a full run are also written to benchmarks/results/gpu.json.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from time import monotonic
from types import MappingProxyType
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_report import format_report
from benchmarks.measurement import ROOT, write_results
from mondrian.core.errors import run_command
from mondrian.core.files import write_json

PARTS_DIR = ROOT / "benchmarks/gpu_parts"
SYSTEMS_DIR = ROOT / "benchmarks/systems"
TRAINERS: dict[str, tuple[object, ...]] = {  # script, and its arguments after the workload
    "mondrian": (PARTS_DIR / "train_mondrian.py",),
    "mlx-vlm": (SYSTEMS_DIR / "mlx_vlm_sft.py", "own"),
    "transformers + PEFT": (SYSTEMS_DIR / "torch_peft.py", "supervised"),
}
MIN_SECONDS = 5.0  # a part is not started with less time left
Record = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A process that prints its results as lines of JSON.

    tags  are added to each result
    """

    name: str
    command: tuple[object, ...]
    seconds: float
    tags: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """Amounts to measure.

    products    size of the square product, outputs and inputs of the packed one
    training    batch size and steps of each training run
    logits      bases
    tests       arguments of pytest
    generation  tokens of a critique and batch sizes
    overhead    rounds, turns and steps of systems/adapter_overhead.py
    first_token advisors, photos per advisor
    """

    name: str
    products: tuple[int, ...]
    training: tuple[int, ...]
    logits: tuple[str, ...]
    tests: tuple[str, ...]
    generation: tuple[int, ...]
    overhead: tuple[int, ...]
    first_token: tuple[int, ...]
    patience: float  # factor on the time limits of parts


FULL = Sizes(
    name="full",
    products=(8192, 9728, 2560, 4),
    training=(1, 8, 2, 6, 4, 5),
    logits=("mondrian-tiny", "large-vocabulary"),
    tests=("-n", "8", "-m", "device", "tests/model", "tests/training", "tests/serving"),
    generation=(200, 1, 8, 32),
    overhead=(2, 20, 8),
    first_token=(4, 4),
    patience=1.0,
)
SMALL = Sizes(
    name="small",
    products=(256, 256, 128, 4),
    training=(1, 2, 2, 2),
    logits=("mondrian-tiny",),
    tests=("-n", "0", "tests/model/test_device.py"),
    generation=(8, 1, 2),
    overhead=(1, 2, 4),
    first_token=(2, 2),
    patience=10.0,
)


def list_parts(
    sizes: Sizes, folder: Path, torch: str | None, tokenizer: Path | None, is_gpu: bool
) -> list[Part]:
    """Return all parts, the most important first; those on torch only if its Python is known."""
    half = {"MONDRIAN_DEVICE": "gpu-bfloat16"} if is_gpu else {}
    floats, packed = folder / "float", folder / "4bit"
    peft = [train("transformers + PEFT", floats, sizes, torch)] if torch else []
    return [
        Part("doctor", (sys.executable, "-m", "mondrian", "doctor"), 60),
        part("products", "products.py", *sizes.products, seconds=30),
        part("bases", "bases.py", folder, sizes.name, *filter(None, [tokenizer]), seconds=120),
        train("mondrian", floats, sizes),
        train("mlx-vlm", floats, sizes),
        train("mondrian", packed, sizes),
        *peft,
        part("resume", "resume.py", folder / "resume", env=half),
        part("logits", "logits.py", *sizes.logits),
        part("tests", "suites.py", *sizes.tests, seconds=90, env=half),
        part("generation float", "generation.py", floats / "workload", *sizes.generation),
        part("generation 4bit", "generation.py", packed / "workload", *sizes.generation),
        overhead(packed, "unmerged", sizes),
        overhead(floats, "unmerged", sizes),
        overhead(floats, "merged", sizes),
        part("first token", "first_token.py", params_file(packed), *sizes.first_token),
        train("mlx-vlm", packed, sizes),
    ]


def part(
    name: str,
    script: str,
    *arguments: object,
    seconds: float = 60,
    env: Mapping[str, str] = MappingProxyType({}),
) -> Part:
    return Part(name, (sys.executable, PARTS_DIR / script, *arguments), seconds, env=env)


def train(system: str, base: Path, sizes: Sizes, python: str = sys.executable) -> Part:
    script, *options = TRAINERS[system]
    command = (python, script, base / "workload", *options, *sizes.training)
    return Part(f"train {system} {base.name}", command, 75, {"system": system, "base": base.name})


def params_file(base: Path) -> Path:
    return base / "deployment/params.yaml"


def overhead(base: Path, kind: str, sizes: Sizes) -> Part:
    adapter = base / "deployment/adapters/ansel"
    script = SYSTEMS_DIR / "adapter_overhead.py"
    command = (sys.executable, script, params_file(base), adapter, kind, *sizes.overhead)
    tags = {"base": base.name, "adapter": kind}
    return Part(f"overhead {base.name} {kind}", command, 45, tags)


def run_part(part: Part, limit: float, log: TextIO) -> Iterator[Record]:
    """Yield each result as the process prints it; the last record is how the process ended."""
    started = monotonic()
    log.write(f"== {part.name}\n")
    log.flush()
    with subprocess.Popen(
        [str(word) for word in part.command],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        cwd=ROOT,
        env=os.environ | part.env,
        start_new_session=True,
    ) as process:
        timer = Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            for line in process.stdout or ():
                log.write(line)
                if line.startswith("{") and line.endswith("}\n"):  # not one that was cut
                    yield {"part": part.name, **part.tags, **json.loads(line)}
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:  # Ctrl-C reaches no process of another session
                os.killpg(process.pid, signal.SIGKILL)
    seconds = monotonic() - started
    end = "stopped at its time limit" if seconds >= limit else f"exit status {status}"
    yield {"part": part.name, "end": end, "seconds": round(seconds, 1)}


def run_parts(
    parts: list[Part], seconds: float, output: Path, patience: float = 1.0
) -> list[Record]:
    """Run parts until the time is up; gpu.json holds every result as soon as it is printed.

    patience  factor on each part's time limit
    """
    deadline, records = monotonic() + seconds, list[Record]()
    with (output / "gpu.log").open("w") as log:
        for part in parts:
            seconds_left = deadline - monotonic()
            if seconds_left < MIN_SECONDS:
                records.append({"part": part.name, "end": "no time was left", "seconds": 0.0})
                continue
            for record in run_part(part, min(patience * part.seconds, seconds_left), log):
                records.append(record)
                write_json(output / "gpu.json", records)
            print(f"{records[-1]['seconds']:6.1f} s  {part.name}: {records[-1]['end']}", flush=True)
    write_json(output / "gpu.json", records)
    return records


def has_gpu() -> bool:
    """Ask a process of its own, so that this one holds no memory of the device."""
    code = "import mondrian.model; from mondrian.model.device import DEVICE; print(DEVICE.is_gpu)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"MLX cannot be used: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip() == "True"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what only a GPU can show.")
    parser.add_argument("--small", action="store_true", help="mondrian-tiny on any device")
    parser.add_argument("--minutes", type=float, default=8.0, help="time of the whole run")
    parser.add_argument("--output", type=Path, help="folder of gpu.json and gpu.log")
    parser.add_argument("--torch", help="python of an environment with torch, transformers, PEFT")
    parser.add_argument("--tokenizer", type=Path, help="folder with Qwen3's tokenizer.json")
    parser.add_argument("--parts", nargs="+", help="names of parts, or their first words")
    args = parser.parse_args()
    if not 0 < args.minutes < 10_000:
        parser.error(f"--minutes is {args.minutes}; it must be above 0 and below 10,000")
    if args.output and args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is no folder")
    if args.torch and not shutil.which(args.torch):
        parser.error(f"--torch {args.torch} cannot be run; name the python of an environment")
    if args.tokenizer and not (args.tokenizer / "tokenizer.json").is_file():
        parser.error(f"--tokenizer {args.tokenizer} has no tokenizer.json")
    return args


def select_parts(parts: list[Part], names: Sequence[str]) -> list[Part]:
    """Return the parts of which a name is the beginning; all of them without names."""
    for name in names:
        if not any(part.name.startswith(name) for part in parts):
            known = ", ".join(part.name for part in parts)
            raise SystemExit(f"error: --parts {name} is no part; the parts are {known}")
    return [part for part in parts if part.name.startswith(tuple(names) or "")]


def main() -> None:
    args, started = parse_args(), monotonic()
    is_gpu = has_gpu()
    if not (is_gpu or args.small):
        raise SystemExit("MLX uses the CPU here; run on a machine with a GPU, or with --small")
    with tempfile.TemporaryDirectory() as tmp_dir:
        output = args.output or Path(tmp_dir)
        output.mkdir(parents=True, exist_ok=True)
        sizes = SMALL if args.small else FULL
        parts = list_parts(sizes, Path(tmp_dir), args.torch, args.tokenizer, is_gpu)
        parts = select_parts(parts, args.parts or ())
        records = run_parts(
            parts, 60 * args.minutes - (monotonic() - started), output, sizes.patience
        )
    print(format_report(records, with_aims=not args.small))
    if is_gpu and not args.small and not args.parts:
        write_results("gpu.json", records)


if __name__ == "__main__":
    run_command(main)
