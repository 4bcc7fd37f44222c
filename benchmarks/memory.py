"""Compare predicted with measured peak memory of training: python benchmarks/memory.py

Each configuration trains in a separate process with mondrian.training.trainer, on random rows of
the large-vocabulary base (benchmarks/large_base.py), of a quantized copy of it, of mondrian-tiny,
or of a base with the widths of Qwen3-VL-4B and few layers (benchmarks/true_width.py). `gpu` runs
the branches of a GPU. Writes benchmarks/results/memory.json.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
from mlx_vlm.convert import convert

from benchmarks.large_base import LARGE, TINY, TINY_FOLDER, VOCABULARY_SIZE, write_base
from benchmarks.measurement import ROOT, print_result, run_measurement, write_results
from benchmarks.precomputed_features import PrecomputedFeatures
from benchmarks.true_width import WIDE, make_true_width_base
from mondrian.core.params import TrainParams, load_params
from mondrian.model import vlm
from mondrian.model.architecture import Architecture, read_architecture
from mondrian.model.device import DEVICE
from mondrian.model.language import Features
from mondrian.model.lora import make_lora_config
from mondrian.model.vlm import Vlm
from mondrian.training.dataset import Example
from mondrian.training.plan import PlannedExample, plan_batches
from mondrian.training.step_cost import RunSetup
from mondrian.training.trainer import Trainer

Run = dict[str, Any]
DEFAULT: Run = {
    "model": LARGE,
    "device": "cpu",  # or MONDRIAN_DEVICE's value: the branches of a GPU
    "bits": 0,
    "batch": 1,
    "tokens": 700,
    "rank": 16,
    "checkpointing": False,
}
TRUE_WIDTH: Run = DEFAULT | {
    "model": WIDE,
    "layers": 2,
    "vocabulary": 4096,
    "float_type": "float32",
}
FORCED_GPU: Run = TRUE_WIDTH | {"device": "gpu-bfloat16"}
RUNS = [
    TRUE_WIDTH | {"tokens": 2000},
    TRUE_WIDTH | {"tokens": 1000, "batch": 2},
    TRUE_WIDTH | {"tokens": 1400, "layers": 4, "checkpointing": True},
    TRUE_WIDTH | {"vocabulary": VOCABULARY_SIZE},
    TRUE_WIDTH | {"bits": 4, "tokens": 500},
    TRUE_WIDTH | {"bits": 4, "tokens": 400, "layers": 3, "checkpointing": True},
    FORCED_GPU | {"tokens": 2000},
    FORCED_GPU | {"tokens": 1000, "batch": 2, "layers": 3, "checkpointing": True},
    FORCED_GPU | {"tokens": 300, "float_type": "bfloat16"},
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


def load_base(run: Run, folder: Path) -> tuple[Vlm, Architecture]:
    if run["model"] == WIDE:
        float_type = getattr(mx, run["float_type"])
        return make_true_width_base(run["layers"], run["vocabulary"], run["bits"], float_type)
    source = TINY_FOLDER if run["model"] == TINY else folder / f"{LARGE}-{run['bits']}"
    return vlm.load(str(source)), read_architecture(str(source))


def measure(run: Run, folder: Path) -> dict[str, float]:
    """Train one epoch in this process; return the planned peak and MLX's own, in 10^9 bytes."""
    model, base = load_base(run, folder)
    grid = (4, 5) if run["model"] == TINY or run["tokens"] < 400 else (15, 20)
    examples = make_examples(run, base, grid[0] * grid[1])
    params = train_params(run)
    features = {e.photo: random_features(base, grid, model.float_type) for e in examples}
    device = replace(DEVICE, float_type=model.float_type)
    planned = plan_batches(
        RunSetup(base, make_lora_config(params), params, device),
        tuple(PlannedExample(example, grid) for example in examples),
        (),
        base.image_id,
    )
    result = Trainer(PrecomputedFeatures(model, features), examples, examples[:1], params).run()
    return {"predicted_gb": planned.peak_bytes / 1e9, "measured_gb": result.peak_gb}


def make_examples(run: Run, base: Architecture, num_image_tokens: int) -> list[Example]:
    """Return two batches of random token ids; one for a base of true width, which is slow."""
    rng = np.random.default_rng(0)
    num_answer_tokens = min(300, run["tokens"] // 2 - 100)
    num_text_tokens = run["tokens"] - num_image_tokens - num_answer_tokens
    examples = []
    num_batches = 1 if run["model"] == WIDE else 2
    for i in range(num_batches * run["batch"]):
        text = rng.integers(9, 1000, num_text_tokens).tolist()
        answer = rng.integers(9, 1000, num_answer_tokens).tolist()
        ids = [*text, *[base.image_id] * num_image_tokens, *answer]
        examples.append(Example(str(i), ids, len(ids) - len(answer), str(i), [1.0] * len(answer)))
    return examples


def random_features(base: Architecture, grid: tuple[int, int], float_type: Any) -> Features:
    shape = (grid[0] * grid[1], base.width)
    merged, *deep = (mx.random.normal(shape, float_type) for _ in range(1 + base.deepstack_levels))
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


def measure_apart(run: Run, folder: str) -> Run:
    """Return a run with the results of a process of its own."""
    device = {} if run["device"] == "cpu" else {"MONDRIAN_DEVICE": run["device"]}
    command = (sys.executable, __file__, json.dumps(run), folder)
    result = run_measurement(*command, env=device, timeout=1800)
    ratio = round(result["predicted_gb"] / result["measured_gb"], 3)
    return run | result | {"ratio": ratio}


def describe(result: Run) -> str:
    size = f"{result['batch']} x {result['tokens']:4}"
    layers = f", {result['layers']} layers" if "layers" in result else ""
    weights = f"{result['bits']} bits" if result["bits"] else result.get("float_type", "float32")
    checkpointing = ", checkpointing" if result["checkpointing"] else ""
    return (
        f"{result['model'] + layers:<22} {result['device']:<12} {weights:<8} {size}, rank "
        f"{result['rank']}{checkpointing:<15} {result['predicted_gb']:6.3f} GB predicted, "
        f"{result['measured_gb']:6.3f} measured, {result['ratio']:.2f}"
    )


def main() -> None:
    if len(sys.argv) == 3:
        print_result(**measure(json.loads(sys.argv[1]), Path(sys.argv[2])))
        return
    results = []
    with tempfile.TemporaryDirectory() as tmp_dir:
        write_bases(Path(tmp_dir))
        for run in RUNS:
            results.append(measure_apart(run, tmp_dir))
            print(describe(results[-1]), flush=True)
            write_results("memory.json", results)
    largest_error = max(abs(result["ratio"] - 1) for result in results)
    print(f"largest prediction error: {100 * largest_error:.0f} %")


if __name__ == "__main__":
    main()
