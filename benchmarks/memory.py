"""Compare predicted with measured peak memory of training: python benchmarks/memory.py

Each configuration trains two steps in a separate process with mondrian.training.trainer, on random
rows of the large-vocabulary base (benchmarks/large_base.py), of a quantized copy of it, or of
mondrian-tiny. Writes benchmarks/results/memory.json.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
from mlx_vlm.convert import convert

from benchmarks.large_base import LARGE, TINY, TINY_FOLDER, write_base
from benchmarks.measurement import ROOT, print_result, run_measurement, write_results
from benchmarks.precomputed_features import PrecomputedFeatures
from mondrian.core.params import TrainParams, load_params
from mondrian.model import vlm
from mondrian.model.architecture import Architecture, read_architecture
from mondrian.model.device import CPU
from mondrian.model.language import Features
from mondrian.model.lora import make_lora_config
from mondrian.training.dataset import Example
from mondrian.training.plan import PlannedExample, RunSetup, plan_batches
from mondrian.training.trainer import Trainer

Run = dict[str, Any]
DEFAULT: Run = {
    "model": LARGE,
    "bits": 0,
    "batch": 1,
    "tokens": 700,
    "rank": 16,
    "checkpointing": False,
}
RUNS = [
    DEFAULT,
    DEFAULT | {"batch": 2, "tokens": 1400},
    DEFAULT | {"batch": 4, "checkpointing": True},
    DEFAULT | {"rank": 64},
    DEFAULT | {"tokens": 400, "bits": 8},
    DEFAULT | {"tokens": 400, "bits": 4, "checkpointing": True},
    DEFAULT | {"model": TINY, "batch": 2},
    DEFAULT | {"model": TINY, "batch": 8, "tokens": 1000, "rank": 32},
    DEFAULT | {"model": TINY, "batch": 4, "tokens": 500, "checkpointing": True},
]


def write_bases(folder: Path) -> None:
    """Write the large base and copies of it that mlx-vlm quantized to 4 and 8 bits."""
    source = folder / f"{LARGE}-0"
    write_base(source)
    for bits in (4, 8):
        target = str(folder / f"{LARGE}-{bits}")
        convert(str(source), target, quantize=True, q_bits=bits, dtype="float32")


def base_folder(run: Run, folder: Path) -> Path:
    return TINY_FOLDER if run["model"] == TINY else folder / f"{LARGE}-{run['bits']}"


def measure(run: Run, folder: Path) -> dict[str, float]:
    """Train two steps in this process; return the planned peak and MLX's own, in 10^9 bytes."""
    source = str(base_folder(run, folder))
    base, model = read_architecture(source), vlm.load(source)
    grid = (4, 5) if run["model"] == TINY else (15, 20)
    examples = make_examples(run, base, grid[0] * grid[1])
    params = train_params(run)
    features = {e.photo: random_features(base, grid) for e in examples}
    planned = plan_batches(
        RunSetup(base, make_lora_config(params), params, CPU),
        tuple(PlannedExample(example, grid) for example in examples),
        (),
        base.image_id,
    )
    result = Trainer(PrecomputedFeatures(model, features), examples, examples[:1], params).run()
    return {"predicted_gb": planned.peak_bytes / 1e9, "measured_gb": result.peak_gb}


def make_examples(run: Run, base: Architecture, num_image_tokens: int) -> list[Example]:
    """Return two batches of random token ids."""
    rng = np.random.default_rng(0)
    num_answer_tokens = min(300, run["tokens"] // 2 - 100)
    num_text_tokens = run["tokens"] - num_image_tokens - num_answer_tokens
    examples = []
    for i in range(2 * run["batch"]):
        text = rng.integers(9, 1000, num_text_tokens).tolist()
        answer = rng.integers(9, 1000, num_answer_tokens).tolist()
        ids = [*text, *[base.image_id] * num_image_tokens, *answer]
        examples.append(Example(str(i), ids, len(ids) - len(answer), str(i), [1.0] * len(answer)))
    return examples


def random_features(base: Architecture, grid: tuple[int, int]) -> Features:
    shape = (grid[0] * grid[1], base.width)
    merged, *deep = (mx.random.normal(shape) for _ in range(1 + base.deepstack_levels))
    mx.eval(merged, deep)
    return Features(merged, tuple(deep), grid)


def train_params(run: Run) -> TrainParams:
    return load_params(ROOT / "params.yaml").train.model_copy(
        update={
            "lora_r": run["rank"],
            "batch_size": run["batch"],
            "epochs": 1,
            "gradient_checkpointing": run["checkpointing"],
        }
    )


def describe(result: Run) -> str:
    return (
        f"{result['model']:<17} {result['bits'] or 32:2} bits, {result['batch']} x "
        f"{result['tokens']:4} tokens, rank {result['rank']:2}"
        f"{', checkpointing' if result['checkpointing'] else '':<15} predicted "
        f"{result['predicted_gb']:.3f} GB, measured {result['measured_gb']:.3f} GB, "
        f"{result['ratio']:.2f}"
    )


def main() -> None:
    if len(sys.argv) == 3:
        print_result(**measure(json.loads(sys.argv[1]), Path(sys.argv[2])))
        return
    results = []
    with tempfile.TemporaryDirectory() as tmp_dir:
        write_bases(Path(tmp_dir))
        for run in RUNS:
            result = run | run_measurement(
                sys.executable, __file__, json.dumps(run), tmp_dir, timeout=900
            )
            ratio = result["predicted_gb"] / result["measured_gb"]
            results.append(result | {"ratio": round(ratio, 3)})
            print(describe(results[-1]), flush=True)
    write_results("memory.json", results)
    largest_error = max(abs(result["ratio"] - 1) for result in results)
    print(f"largest prediction error: {100 * largest_error:.0f} %")


if __name__ == "__main__":
    main()
