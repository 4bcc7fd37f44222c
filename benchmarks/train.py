"""Training side by side: python benchmarks/train.py [--torch PYTHON]

This project, mlx-vlm's Trainer with train_on_completions, TRL + PEFT on torch's CPU, and
transformers + PEFT with lm_head at supervised positions only: the same rows in the same batches,
the same first adapter, the same AdamW, float32, each in a process of its own on all cores. A random
base with the real vocabulary (benchmarks/large_base.py), and mondrian-tiny on rows of
data/prepared/ansel (`dvc repro prepare`). Writes benchmarks/results/train.json.

This project runs the vision tower once a photograph; EPOCHS of it share that time here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import mondrian.model.cpu.openblas  # noqa: E402  # isort: skip  (before mlx)
import numpy as np  # noqa: E402

from benchmarks import large_base  # noqa: E402
from benchmarks.first_adapter import write_adapter  # noqa: E402
from benchmarks.job import ALPHA, RANK, Job  # noqa: E402
from mondrian.core.images import read_photo  # noqa: E402
from mondrian.core.params import load_params  # noqa: E402
from mondrian.critique.rows import read_rows  # noqa: E402
from mondrian.model import vlm  # noqa: E402
from mondrian.model.architecture import read_architecture  # noqa: E402
from mondrian.model.hardware import CPU  # noqa: E402
from mondrian.model.lora import LoraConfig  # noqa: E402
from mondrian.training.plan import BatchShape, TrainingJob, count_operations  # noqa: E402
from mondrian.training.schedule import select_micro_batches  # noqa: E402

LARGE, TINY = "large-vocabulary", "mondrian-tiny"
EPOCHS, BATCH = 3, 2
STEPS = {LARGE: 4, TINY: 20}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class System:
    """A way to train, and the command that does it; `threads` of its BLAS."""

    name: str
    variant: str
    command: tuple[str, ...]
    threads: int
    cores: int = CORES
    ranks: int = 1


def systems(torch: str | None) -> list[System]:
    """Everything that is compared."""
    own, theirs = ("systems/ours.py",), ("systems/mlx_vlm_sft.py",)
    blas = str(mondrian.model.cpu.openblas.find_openblas())
    here = sys.executable
    found = [
        System("mondrian", "one process", (here, *own), 1),
        System("mondrian", "two ranks", (here, *own), 1, ranks=2),
        System("mondrian", "one process on one core", (here, *own), 1, cores=1),
        System("mlx-vlm", "as it is", (here, *theirs, blas), CORES),
        System("mlx-vlm", "with this project's malloc", (here, *theirs, "own"), CORES),
    ]
    if torch:
        script = "systems/torch_peft.py"
        found += [
            System("trl-peft", "TRL as it is", (torch, script, "trl"), CORES),
            System("trl-peft", "head where supervised", (torch, script, "supervised"), CORES),
        ]
    return found


def write_large(folder: Path) -> Job:
    """Random rows of true proportions; each begins with a prompt of its own."""
    large_base.write_base(folder / "base")
    rows = large_base.rows(STEPS[LARGE] * BATCH, shared_prompt=False)
    return _write(
        folder / "job",
        str(folder / "base"),
        [r.ids for r in rows],
        [r.start for r in rows],
        [large_base.GRID] * len(rows),
        [r.pixels for r in rows],
        STEPS[LARGE],
    )


def write_tiny(folder: Path) -> Job:
    """The first rows of ansel's train part, as mondrian-tiny's own processor sees them."""
    source = str(ROOT / "models/base/mondrian-tiny")
    base = vlm.load(source)
    rows = read_rows(ROOT / "data/prepared/ansel/training_data_ansel_train.json")
    ids, starts, grids, pixels = [], [], [], []
    for row in rows[: STEPS[TINY] * BATCH]:
        seen = base.processor.image_processor([read_photo(Path(row.images[0]))])
        grid = [int(n) for n in np.array(seen["image_grid_thw"])[0][1:]]
        prompt = base.tokens.prompt(row.messages[:-1], grid[0] * grid[1] // 4)
        ids.append(prompt + base.tokens.answer(row.messages[-1]["content"])[0])
        starts.append(len(prompt))
        grids.append((grid[0], grid[1]))
        pixels.append(np.array(seen["pixel_values"]))
    return _write(folder / "job", source, ids, starts, grids, pixels, STEPS[TINY])


def _write(
    folder: Path, base: str, ids: Any, starts: Any, grids: Any, pixels: Any, steps: int
) -> Job:
    params = load_params(ROOT / "params.yaml").train.model_copy(
        update={"batch_size": BATCH, "gradient_accumulation_steps": 1, "seed": 1}
    )
    batches = [
        select_micro_batches(list(range(len(ids))), params, 1, step)[0] for step in range(steps)
    ]
    job = Job(folder, base, batches, ids, starts, grids)
    job.write(pixels)
    write_adapter(job.adapter, base)
    return job


def gemm_rate(threads: int) -> float:
    """Operations a second of float32 products of 2048 x 2048, the median of twenty."""
    code = (
        "import mondrian.model.cpu.openblas, time; import mlx.core as mx; "
        "a = mx.random.normal((2048, 2048)); "
        "mx.eval(a); times = []\n"
        "for _ in range(20):\n"
        "    t = time.perf_counter(); mx.eval(a @ a); times.append(time.perf_counter() - t)\n"
        "print(2 * 2048**3 / sorted(times)[10])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": str(threads)},
    )
    return float(done.stdout)


def necessary(job: Job) -> float:
    """Operations of a mean step (mondrian.training.memory_estimate.operations), nothing shared
    between rows."""
    base = read_architecture(job.base)
    params = load_params(ROOT / "params.yaml").train
    work = TrainingJob(base, LoraConfig(RANK, ALPHA), params, CPU)
    total = 0
    for batch in job.batches:
        lengths = [len(job.ids[row]) - 1 for row in batch]
        told = sum(len(job.ids[row]) - job.starts[row] for row in batch)
        pairs = tuple((n, n) for n in lengths)
        total += count_operations(work, BatchShape(sum(lengths), pairs, pairs, told, 0))
    return total / len(job.batches)


def measure(system: System, job: Job) -> dict[str, Any]:
    """Run one system over one job; MLX's peak memory, or a process's where there is no MLX."""
    python, script, *rest = system.command
    command = [python, str(ROOT / "benchmarks" / script), str(job.folder), *rest]
    if system.ranks > 1:
        command.append(str(system.ranks))
    if system.cores < CORES:
        command = ["taskset", "-c", ",".join(str(i) for i in range(system.cores)), *command]
    threads = str(system.threads)
    env = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=3600)
    if done.returncode:
        raise SystemExit(f"{system.name}, {system.variant}: {done.stderr[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    skip = 1 if len(job.batches) < 10 else 2
    tower = found.get("tower_seconds", 0.0) * BATCH / EPOCHS
    seconds = statistics.median(found["seconds"][skip:]) + tower
    tokens = statistics.mean(sum(len(job.ids[row]) for row in batch) for batch in job.batches)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds_per_step": round(seconds, 3),
        "peak_memory_gb": round(found.get("peak_gb", found["rss_gb"]), 3),
        "rss_gb": round(found["rss_gb"], 3),
        "first_loss": round(found["losses"][0], 4),
        "loss": round(found["losses"][-1], 4),
        "tower_seconds_per_photograph": round(found.get("tower_seconds", 0.0), 3),
    }


def table(results: list[dict[str, Any]], model: str) -> str:
    """The measured rows of one model."""
    lines = [
        f"{model}: {STEPS[model]} steps, batch {BATCH}",
        f"  {'':<38}tokens/s  s/step  peak GB  process GB     loss  of GEMM",
    ]
    for r in (r for r in results if r["model"] == model):
        lines.append(
            f"  {r['system'] + ', ' + r['variant']:<38}{r['tokens_per_second']:8.0f} "
            f"{r['seconds_per_step']:7.2f} {r['peak_memory_gb']:8.2f} {r['rss_gb']:11.2f} "
            f"{r['loss']:8.4f} {r['gemm_fraction']:8.2f}"
        )
    return "\n".join(lines)


def ratios(results: list[dict[str, Any]]) -> str:
    """What the project is held to."""

    def of(model: str, system: str, variant: str, key: str) -> float:
        wanted = (model, system, variant)
        found = [r[key] for r in results if (r["model"], r["system"], r["variant"]) == wanted]
        return float(found[0]) if found else float("nan")

    def speed(model: str, variant: str, other: tuple[str, str] = ("mlx-vlm", "as it is")) -> float:
        key = "tokens_per_second"
        return of(model, "mondrian", variant, key) / of(model, *other, key)

    one, two, alone = "one process", "two ranks", "one process on one core"
    memory = of(LARGE, "mondrian", one, "peak_memory_gb") / of(
        LARGE, "mlx-vlm", "as it is", "peak_memory_gb"
    )
    supervised = ("trl-peft", "head where supervised")
    return "\n".join(
        [
            f"{LARGE}, one process: {speed(LARGE, one):.1f} times mlx-vlm's tokens/s (goal 4.5), "
            f"{memory:.2f} of its peak memory (goal 0.35), "
            f"{of(LARGE, 'mondrian', one, 'gemm_fraction'):.2f} of the GEMM rate (goal 0.40)",
            f"{LARGE}, two ranks: {speed(LARGE, two):.1f} times (goal 6.5), "
            f"{of(LARGE, 'mondrian', two, 'gemm_fraction'):.2f} of the GEMM rate (goal 0.55), "
            f"{speed(LARGE, two, supervised):.1f} times transformers + PEFT with its head where "
            "something is supervised (goal 1)",
            f"{LARGE}, two ranks against one of them alone on its core: "
            f"{speed(LARGE, two, ('mondrian', alone)):.2f} times (goal 1.5)",
            f"{TINY}, one process: {speed(TINY, one):.1f} times mlx-vlm's tokens/s (goal 1.4)",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training, side by side.")
    parser.add_argument("--torch", help="python of an environment with requirements-torch.txt")
    parser.add_argument("--only", help="measure systems of this name alone, and write nothing")
    args = parser.parse_args()
    rates = {threads: gemm_rate(threads) for threads in {1, CORES}}
    told = [f"{rate / 1e9:.0f} GFLOP/s on {n} threads" for n, rate in rates.items()]
    print(f"float32 GEMM: {', '.join(told)}")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model, write in ((LARGE, write_large), (TINY, write_tiny)):
            folder = Path(scratch) / model
            folder.mkdir()
            job = write(folder)
            work = necessary(job)
            for system in systems(args.torch):
                if args.only and args.only != system.name:
                    continue
                found = measure(system, job)
                share = work / found["seconds_per_step"] / rates[CORES]
                own = {"system": system.name, "variant": system.variant, "model": model}
                more = {
                    "blas_threads": system.threads,
                    "cores": system.cores,
                    "ranks": system.ranks,
                }
                results.append(own | found | {"gemm_fraction": round(share, 3)} | more)
            print(table(results, model), flush=True)
    print(ratios(results))
    if not args.only:
        out = ROOT / "benchmarks/results/train.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
