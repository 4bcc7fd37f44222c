"""Train a workload with this project's trainer: mondrian_trainer.py FOLDER [RANKS]

The vision tower runs once per photo before the first step; its seconds are reported separately.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.measurement import ROOT, peak_rss_gb, print_result
from benchmarks.precomputed_features import PrecomputedFeatures
from benchmarks.workload import ALPHA, LEARNING_RATE, RANK, Workload
from mondrian.core.params import TrainParams, load_params
from mondrian.model import adapter, lora, vlm
from mondrian.model.language import Features
from mondrian.model.vision import extract_features
from mondrian.training import distributed
from mondrian.training.dataset import Example
from mondrian.training.distributed import ProcessGroup
from mondrian.training.progress import Tracker
from mondrian.training.trainer import Trainer, TrainerServices


class StepTimer:
    """A tracker that records the time and loss of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def log(self, entry: dict[str, Any]) -> None:
        if "loss" in entry:
            self.times.append(time.perf_counter())
            self.losses.append(entry["loss"])

    def close(self) -> None:
        pass


def train_params(workload: Workload) -> TrainParams:
    """Return params.yaml's section with the settings that all systems share."""
    shared = {
        "lora_r": RANK,
        "lora_alpha": float(ALPHA),
        "lora_dropout": 0.0,
        "epochs": 1,
        "batch_size": len(workload.batches[0]),
        "learning_rate": LEARNING_RATE,
        "lr_schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0e9,
        "seed": 1,
    }
    return load_params(ROOT / "params.yaml").train.model_copy(update=shared)


def compute_features(
    workload: Workload, vision_tower: Any, group: ProcessGroup
) -> dict[str, Features]:
    """Return the features of all photos; each rank computes its share, as in training.run."""
    rows = range(len(workload.grids))[group.rank :: group.size]
    features: dict[str, Features] = {}
    for pair in (rows[i : i + 2] for i in range(0, len(rows), 2)):
        photos = [(mx.array(workload.pixels(row)), workload.grids[row]) for row in pair]
        features |= dict(zip(map(str, pair), extract_features(vision_tower, photos), strict=True))
    if group.size == 1:
        return features
    for row, computed in features.items():
        levels = {f"{i}": level for i, level in enumerate(computed.deepstack)}
        file = workload.folder / f"features-{row}.safetensors"
        mx.save_safetensors(str(file), {"merged": computed.merged, **levels})
    group.sum_numbers(0.0)  # wait until all ranks have written theirs
    for i, (grid_rows, grid_columns) in enumerate(workload.grids):
        if str(i) not in features:
            tensors: Any = mx.load(str(workload.folder / f"features-{i}.safetensors"))
            merged = tensors.pop("merged")
            deep = tuple(tensors[str(level)] for level in range(len(tensors)))
            features[str(i)] = Features(merged, deep, (grid_rows // 2, grid_columns // 2))
            mx.eval(merged, deep)
    return features


def train(
    workload: Workload, base: vlm.Vlm, features: dict[str, Features], group: ProcessGroup
) -> dict[str, Any]:
    """Train on features by row; return seconds and loss of each step, and MLX's peak."""
    examples = make_examples(workload)
    timer = StepTimer()
    trainer = Trainer(
        PrecomputedFeatures(base, features),
        examples,
        examples[:1],
        train_params(workload),
        TrainerServices(None, 1000, group, Tracker(timer.log, timer.close)),
    )
    lora.load_lora_weights(trainer.layers, adapter.read_weights(workload.adapter))
    timer.times.append(time.perf_counter())
    result = trainer.run()
    return {
        "seconds": [end - start for start, end in pairwise(timer.times)],
        "losses": timer.losses,
        "peak_gb": result.peak_gb,
        "rss_gb": peak_rss_gb(),
    }


def make_examples(workload: Workload) -> list[Example]:
    return [
        Example(str(i), ids, prompt_length, str(i), [1.0] * (len(ids) - prompt_length))
        for i, (ids, prompt_length) in enumerate(
            zip(workload.ids, workload.prompt_lengths, strict=True)
        )
    ]


def main() -> None:
    folder, num_ranks = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    group = distributed.join_process_group(300)
    if num_ranks > group.size:
        distributed.run_local_ranks([sys.executable, *sys.argv], num_ranks)
        return
    workload = Workload.read(folder)
    base = vlm.load(workload.base)
    started = time.perf_counter()
    features = compute_features(workload, base.model.vision_tower, group)
    tower_seconds = time.perf_counter() - started
    result = train(workload, base, features, group)
    if group.rank == 0:
        print_result(**result, tower_seconds=tower_seconds / len(workload.ids))


if __name__ == "__main__":
    main()
