"""Predicted and measured peak memory of training, side by side: python benchmarks/memory.py

Each configuration trains two steps in a process of its own, as mondrian.training.trainer does it,
on random rows of the large-vocabulary base (benchmarks/large_base.py), of a packed copy of it, and
of mondrian-tiny. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LARGE, TINY = "large-vocabulary", "mondrian-tiny"
PLAIN = {
    "model": LARGE,
    "bits": 0,
    "batch": 1,
    "tokens": 700,
    "rank": 16,
    "checkpointing": False,
}
RUNS: list[dict[str, Any]] = [
    PLAIN,
    PLAIN | {"batch": 2, "tokens": 1400},
    PLAIN | {"batch": 4, "checkpointing": True},
    PLAIN | {"rank": 64},
    PLAIN | {"tokens": 400, "bits": 8},
    PLAIN | {"tokens": 400, "bits": 4, "checkpointing": True},
    PLAIN | {"model": TINY, "batch": 2},
    PLAIN | {"model": TINY, "batch": 8, "tokens": 1000, "rank": 32},
    PLAIN | {"model": TINY, "batch": 4, "tokens": 500, "checkpointing": True},
]


def write_bases(folder: Path) -> None:
    """The large base, and copies of it that are packed, as mlx-vlm packs them."""
    import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
    from mlx_vlm.convert import convert

    from benchmarks.large_base import write_base

    write_base(folder / f"{LARGE}-0")
    for bits in (4, 8):
        plain, packed = folder / f"{LARGE}-0", folder / f"{LARGE}-{bits}"
        convert(str(plain), str(packed), quantize=True, q_bits=bits, dtype="float32")


def base_of(run: dict[str, Any], folder: Path) -> Path:
    """Where the base of a run lies."""
    tiny = ROOT / "models/base/mondrian-tiny"
    return tiny if run["model"] == TINY else folder / f"{LARGE}-{run['bits']}"


def measure(run: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train two steps here; peak memory as planned and as MLX counted it, in 10^9 bytes."""
    import numpy as np

    from mondrian.model.vlm import load  # isort: skip  (before mlx)
    import mlx.core as mx

    from benchmarks.given import Given
    from mondrian.core.params import load_params
    from mondrian.model.architecture import read_architecture
    from mondrian.model.hardware import CPU
    from mondrian.model.language import Features
    from mondrian.model.lora import make_lora_config
    from mondrian.training.dataset import Example
    from mondrian.training.plan import PlannedExample, TrainingJob, plan_batches
    from mondrian.training.trainer import Trainer

    source = base_of(run, folder)
    base, vlm = read_architecture(str(source)), load(str(source))
    grid = (4, 5) if run["model"] == TINY else (15, 20)
    image, told = grid[0] * grid[1], min(300, run["tokens"] // 2 - 100)
    draw = np.random.default_rng(0)

    def row(i: int) -> Example:
        before = draw.integers(9, 1000, run["tokens"] - image - told).tolist()
        answer = draw.integers(9, 1000, told).tolist()
        ids = [*before, *[base.image_id] * image, *answer]
        return Example(str(i), ids, len(ids) - told, str(i), [1.0] * told)

    rows = [row(i) for i in range(2 * run["batch"])]
    params = load_params(ROOT / "params.yaml").train.model_copy(
        update={
            "lora_r": run["rank"],
            "batch_size": run["batch"],
            "epochs": 1,
            "gradient_checkpointing": run["checkpointing"],
        }
    )
    seen = {}
    for one in rows:
        merged, *deep = (
            mx.random.normal((image, base.width)) for _ in range(1 + base.deepstack_levels)
        )
        mx.eval(merged, deep)
        seen[one.photo] = Features(merged, tuple(deep), grid)
    sized = tuple(PlannedExample(one, grid) for one in rows)
    planned = plan_batches(
        TrainingJob(base, make_lora_config(params), params, CPU), sized, (), base.image_id
    )
    done = Trainer(Given(vlm, seen), rows, rows[:1], params).run()
    return {"predicted_gb": planned.peak / 1e9, "measured_gb": done.peak_gb}


def main() -> None:
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]), Path(sys.argv[2]))))
        return
    results, worst = [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        write_bases(Path(scratch))
        for run in RUNS:
            command = [sys.executable, __file__, json.dumps(run), scratch]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            found = run | json.loads(done.stdout)
            ratio = found["predicted_gb"] / found["measured_gb"]
            worst = max(worst, abs(ratio - 1))
            results.append(found | {"ratio": round(ratio, 3)})
            print(
                f"{found['model']:<17} {found['bits'] or 32:2} bits, {found['batch']} x "
                f"{found['tokens']:4} tokens, rank {found['rank']:2}"
                f"{', checkpointing' if found['checkpointing'] else '':<15} predicted "
                f"{found['predicted_gb']:.3f} GB, measured {found['measured_gb']:.3f} GB, "
                f"{ratio:.2f}",
                flush=True,
            )
    out = ROOT / "benchmarks/results/memory.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"furthest from measured: {100 * worst:.0f} %")


if __name__ == "__main__":
    main()
