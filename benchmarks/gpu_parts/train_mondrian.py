"""Train a workload at several batch sizes: train_mondrian.py FOLDER [BATCH_SIZE STEPS]...

Prints a line for each: seconds and loss of each step, planned and measured peak, the operations
and tokens of a step, and the vision tower's seconds per photo.
"""

import gc
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.measurement import print_result
from benchmarks.systems.mondrian_trainer import (
    compute_features,
    make_examples,
    train,
    train_params,
)
from benchmarks.workload import Workload
from mondrian.model import lora, vlm
from mondrian.model.architecture import read_architecture
from mondrian.model.device import DEVICE
from mondrian.model.vlm import Vlm
from mondrian.training.distributed import ProcessGroup
from mondrian.training.plan import PlannedExample, build_setup, plan_batches
from mondrian.training.step_cost import count_operations


def plan(workload: Workload) -> dict[str, float]:
    """Return the planned peak in 10^9 bytes, and the operations and tokens of a step."""
    base = read_architecture(workload.base)
    grids = [(rows // 2, columns // 2) for rows, columns in workload.grids]
    examples = tuple(map(PlannedExample, make_examples(workload), grids))
    setup = build_setup(base, train_params(workload), DEVICE)
    planned = plan_batches(setup, examples, (), base.image_id)
    operations = sum(count_operations(setup, batch) for batch in planned.train_batches)
    return {
        "planned_gb": planned.peak_bytes / 1e9,
        "operations": operations / len(workload.batches),
        "tokens": sum(map(len, workload.ids)) / len(workload.batches),
    }


def run(workload: Workload, base: Vlm) -> dict[str, Any]:
    group = ProcessGroup()
    started = time.perf_counter()
    features = compute_features(workload, base.model.vision_tower, group)
    tower_seconds = (time.perf_counter() - started) / len(workload.ids)
    result = train(workload, base, features, group)
    lora.detach(base.model)
    return {"batch": len(workload.batches[0]), "tower_seconds": tower_seconds} | result


def main() -> None:
    workload = Workload.read(Path(sys.argv[1]))
    base = vlm.load(workload.base)
    sizes = [int(text) for text in sys.argv[2:]]
    for batch_size, num_steps in zip(sizes[::2], sizes[1::2], strict=True):
        repeated = workload.repeat_rows(batch_size, num_steps)
        print_result(**plan(repeated), **run(repeated, base))
        gc.collect()
        mx.clear_cache()


if __name__ == "__main__":
    main()
