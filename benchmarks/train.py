"""Compare training speed and memory: python benchmarks/train.py [--torch PYTHON]

Systems: this project, mlx-vlm's Trainer with train_on_completions, TRL + PEFT on torch's CPU
backend, and transformers + PEFT with lm_head only at supervised positions. All train on the same
rows in the same batches with the same initial adapter and AdamW in float32, each in a separate
process on all cores. Models: a random base with the real vocabulary (benchmarks/large_base.py), and
mondrian-tiny on rows of data/prepared/ansel (`dvc repro prepare`). Writes
benchmarks/results/train.json.

This project runs the vision tower once per photo; here its time is spread over EPOCHS epochs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks import large_base
from benchmarks.large_base import LARGE, TINY, TINY_FOLDER
from benchmarks.measurement import ROOT, run_measurement, write_results
from benchmarks.random_adapter import write_random_adapter
from benchmarks.train_goals import compare_with_goals
from benchmarks.workload import ALPHA, RANK, Workload
from mondrian.core.images import read_photo
from mondrian.core.params import load_params
from mondrian.critique.rows import read_rows
from mondrian.model import vlm
from mondrian.model.architecture import read_architecture
from mondrian.model.cpu.openblas import find_openblas, select_core_type
from mondrian.model.device import CPU
from mondrian.model.lora import LoraConfig
from mondrian.training.schedule import select_micro_batches
from mondrian.training.step_cost import BatchShape, RunSetup, count_operations

EPOCHS, BATCH_SIZE = 3, 2
STEPS = {LARGE: 3, TINY: 20}
NUM_CORES = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
GEMM_BENCHMARK = """
import mondrian.model.cpu.openblas, time
import mlx.core as mx
a = mx.random.normal((2048, 2048))
mx.eval(a)
seconds = []
for _ in range(20):
    started = time.perf_counter()
    mx.eval(a @ a)
    seconds.append(time.perf_counter() - started)
print(2 * 2048**3 / sorted(seconds)[10])
"""
Result = dict[str, Any]


@dataclass(frozen=True)
class System:
    """A training system.

    command  Python and a script of benchmarks/, with arguments after the workload's folder
    threads  BLAS threads
    """

    name: str
    variant: str
    command: tuple[str, ...]
    threads: int
    cores: int = NUM_CORES
    ranks: int = 1


def list_systems(torch: str | None) -> list[System]:
    """Return all systems; those on torch only if its Python is known."""
    trainer = (sys.executable, "systems/mondrian_trainer.py")
    mlx_vlm = (sys.executable, "systems/mlx_vlm_sft.py")
    systems = [
        System("mondrian", "one process", trainer, 1),
        System("mondrian", "two ranks", trainer, 1, ranks=2),
        System("mondrian", "one process on one core", trainer, 1, cores=1),
        System("mlx-vlm", "default", (*mlx_vlm, str(find_openblas())), NUM_CORES),
        System("mlx-vlm", "with this project's malloc", (*mlx_vlm, "own"), NUM_CORES),
    ]
    if torch:
        peft = (torch, "systems/torch_peft.py")
        systems += [
            System("trl-peft", "TRL default", (*peft, "trl"), NUM_CORES),
            System("trl-peft", "lm_head at supervised positions", (*peft, "supervised"), NUM_CORES),
        ]
    return systems


def write_large_workload(folder: Path) -> Workload:
    """Write random rows of realistic lengths, each with its own prompt."""
    large_base.write_base(folder / "base")
    rows = large_base.make_rows(STEPS[LARGE] * BATCH_SIZE, shared_prompt=False)
    workload = Workload(
        folder / "workload",
        str(folder / "base"),
        [row.ids for row in rows],
        [row.prompt_length for row in rows],
        [large_base.GRID] * len(rows),
        make_batches(STEPS[LARGE]),
    )
    workload.write(row.pixels for row in rows)
    return workload


def write_tiny_workload(folder: Path) -> Workload:
    """Write the first rows of ansel's train set, encoded by mondrian-tiny's processor."""
    base = vlm.load(str(TINY_FOLDER))
    rows = read_rows(ROOT / "data/prepared/ansel/training_data_ansel_train.json")
    ids, prompt_lengths, grids, pixels = [], [], [], []
    for row in rows[: STEPS[TINY] * BATCH_SIZE]:
        inputs = base.processor.image_processor([read_photo(Path(row.images[0]))])
        grid_rows, grid_columns = (int(n) for n in np.array(inputs["image_grid_thw"])[0][1:])
        prompt = base.tokenizer.tokenize_prompt(row.messages[:-1], grid_rows * grid_columns // 4)
        ids.append(prompt + base.tokenizer.tokenize_completion(row.messages[-1]["content"])[0])
        prompt_lengths.append(len(prompt))
        grids.append((grid_rows, grid_columns))
        pixels.append(np.array(inputs["pixel_values"]))
    batches = make_batches(STEPS[TINY])
    workload = Workload(folder / "workload", str(TINY_FOLDER), ids, prompt_lengths, grids, batches)
    workload.write(pixels)
    return workload


def make_batches(num_steps: int) -> list[list[int]]:
    """Return the row numbers of each step, in the order of this project's trainer."""
    params = load_params(ROOT / "params.yaml").train.model_copy(
        update={"batch_size": BATCH_SIZE, "gradient_accumulation_steps": 1, "seed": 1}
    )
    rows = list(range(num_steps * BATCH_SIZE))
    return [select_micro_batches(rows, params, 1, step)[0] for step in range(num_steps)]


def gemm_rate(threads: int) -> float:
    """Return operations per second of float32 2048 x 2048 products, the median of twenty."""
    done = subprocess.run(
        [sys.executable, "-c", GEMM_BENCHMARK],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": str(threads)},
    )
    return float(done.stdout)


def blas_kernels() -> dict[str, str]:
    """Return the variable that gives every system this project's choice of OpenBLAS kernels."""
    if "OPENBLAS_CORETYPE" in os.environ:
        return {}
    cpuinfo = Path("/proc/cpuinfo")
    core_type = select_core_type(cpuinfo.read_text()) if cpuinfo.is_file() else None
    return {"OPENBLAS_CORETYPE": core_type} if core_type else {}


def mean_operations(workload: Workload) -> float:
    """Return the operations of a mean step if rows share nothing, by
    mondrian.training.step_cost.count_operations."""
    base = read_architecture(workload.base)
    params = load_params(ROOT / "params.yaml").train
    job = RunSetup(base, LoraConfig(RANK, ALPHA), params, CPU)
    operations = 0
    for batch in workload.batches:
        lengths = [len(workload.ids[row]) - 1 for row in batch]
        supervised = sum(len(workload.ids[row]) - workload.prompt_lengths[row] for row in batch)
        pairs = tuple((n, n) for n in lengths)
        operations += count_operations(job, BatchShape(sum(lengths), pairs, pairs, supervised, 0))
    return operations / len(workload.batches)


def measure(system: System, workload: Workload) -> Result:
    """Train a workload; the peak is MLX's own, or that of the process for a system without MLX."""
    python, script, *arguments = system.command
    command: list[object] = [python, ROOT / "benchmarks" / script, workload.folder, *arguments]
    if system.ranks > 1:
        command.append(system.ranks)
    if system.cores < NUM_CORES:
        command = ["taskset", "-c", ",".join(map(str, range(system.cores))), *command]
    threads = str(system.threads)
    env = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads} | blas_kernels()
    result = run_measurement(*command, env=env)
    num_warmup_steps = 1 if len(workload.batches) < 10 else 2
    tower_seconds = result.get("tower_seconds", 0.0)
    seconds = statistics.median(result["seconds"][num_warmup_steps:])
    seconds += tower_seconds * BATCH_SIZE / EPOCHS
    tokens = statistics.mean(
        sum(len(workload.ids[row]) for row in batch) for batch in workload.batches
    )
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds_per_step": round(seconds, 3),
        "peak_memory_gb": round(result.get("peak_gb", result["rss_gb"]), 3),
        "rss_gb": round(result["rss_gb"], 3),
        "first_loss": round(result["losses"][0], 4),
        "loss": round(result["losses"][-1], 4),
        "tower_seconds_per_photograph": round(tower_seconds, 3),
    }


def format_table(results: list[Result], model: str) -> str:
    """Return the results of one model as text."""
    lines = [
        f"{model}: {STEPS[model]} steps, batch {BATCH_SIZE}",
        f"  {'':<42}tokens/s  s/step  peak GB  process GB     loss  of GEMM",
    ]
    for r in (r for r in results if r["model"] == model):
        lines.append(
            f"  {r['system'] + ', ' + r['variant']:<42}{r['tokens_per_second']:8.0f} "
            f"{r['seconds_per_step']:7.2f} {r['peak_memory_gb']:8.2f} {r['rss_gb']:11.2f} "
            f"{r['loss']:8.4f} {r['gemm_fraction']:8.2f}"
        )
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare training speed and memory.")
    parser.add_argument("--torch", help="python of an environment with requirements-torch.txt")
    parser.add_argument("--only", help="measure only systems of this name; write no file")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    rates = {threads: gemm_rate(threads) for threads in {1, NUM_CORES}}
    gflops = [f"{rate / 1e9:.0f} GFLOP/s on {threads} threads" for threads, rate in rates.items()]
    print(f"float32 GEMM: {', '.join(gflops)}")
    systems = [s for s in list_systems(args.torch) if args.only in (None, s.name)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as tmp_dir:
        for model, write in ((LARGE, write_large_workload), (TINY, write_tiny_workload)):
            folder = Path(tmp_dir) / model
            folder.mkdir()
            workload = write(folder)
            write_random_adapter(workload.adapter, workload.base)
            operations = mean_operations(workload)
            for system in systems:
                result = measure(system, workload)
                fraction = operations / result["seconds_per_step"] / rates[NUM_CORES]
                results.append(
                    {"system": system.name, "variant": system.variant, "model": model}
                    | result
                    | {"gemm_fraction": round(fraction, 3), "blas_threads": system.threads}
                    | {"cores": system.cores, "ranks": system.ranks}
                )
            print(format_table(results, model), flush=True)
    print(compare_with_goals(results))
    if not args.only:
        write_results("train.json", results)


if __name__ == "__main__":
    main()
