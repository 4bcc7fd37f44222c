"""One job of benchmarks/train.py with this project's trainer: ours.py FOLDER [RANKS]

The tower runs once a photograph before the first step; its seconds are told apart.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import mondrian.model  # noqa: E402, F401  # isort: skip  (before mlx)
import mlx.core as mx  # noqa: E402

from benchmarks.given import Given  # noqa: E402
from benchmarks.job import ALPHA, RANK, RATE, Job, report  # noqa: E402
from mondrian.core.params import Train, load_params  # noqa: E402
from mondrian.model import adapter, lora, vlm  # noqa: E402
from mondrian.model.language import Features  # noqa: E402
from mondrian.model.vision import extract_features  # noqa: E402
from mondrian.training import distributed  # noqa: E402
from mondrian.training.dataset import Example  # noqa: E402
from mondrian.training.progress import Tracker  # noqa: E402
from mondrian.training.trainer import Trainer, TrainerServices  # noqa: E402


class Clock:
    """A tracker that notes when each step is done."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]
        self.losses: list[float] = []

    def log(self, entry: dict[str, Any]) -> None:
        """Take a line of the log."""
        if "loss" in entry:
            self.times.append(time.perf_counter())
            self.losses.append(entry["loss"])

    def close(self) -> None:
        """Nothing to close."""


def settings(job: Job) -> Train:
    """params.yaml with what every system shares."""
    shared = {
        "lora_r": RANK,
        "lora_alpha": float(ALPHA),
        "lora_dropout": 0.0,
        "epochs": 1,
        "batch_size": len(job.batches[0]),
        "learning_rate": RATE,
        "lr_schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0e9,
        "seed": 1,
    }
    return load_params(ROOT / "params.yaml").train.model_copy(update=shared)


def look(job: Job, tower: Any, world: distributed.ProcessGroup) -> dict[str, Features]:
    """Features of every photograph; each rank makes its share, as mondrian.training.run does."""
    own = list(range(len(job.grids)))[world.rank :: world.size]
    found: dict[str, Features] = {}
    for pair in (own[i : i + 2] for i in range(0, len(own), 2)):
        photos = [(mx.array(job.pixels(i)), job.grids[i]) for i in pair]
        found |= {str(i): one for i, one in zip(pair, extract_features(tower, photos), strict=True)}
    if world.size == 1:
        return found
    for name, one in found.items():
        told = {"merged": one.merged, **{f"{i}": level for i, level in enumerate(one.deep)}}
        mx.save_safetensors(str(job.folder / f"seen-{name}.safetensors"), told)
    world.sum_numbers(0.0)
    for i, (rows, columns) in enumerate(job.grids):
        if str(i) not in found:
            parts: Any = mx.load(str(job.folder / f"seen-{i}.safetensors"))
            merged = parts.pop("merged")
            deep = tuple(parts[str(level)] for level in range(len(parts)))
            found[str(i)] = Features(merged, deep, (rows // 2, columns // 2))
            mx.eval(merged, deep)
    return found


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    world = distributed.join_process_group(300)
    if count > world.size:
        distributed.run_local_ranks([sys.executable, *sys.argv], count)
        return
    job = Job.read(folder)
    base = vlm.load(job.base)
    tower = time.perf_counter()
    seen = look(job, base.model.vision_tower, world)
    tower = time.perf_counter() - tower
    examples = [
        Example(str(i), ids, start, str(i), [1.0] * (len(ids) - start))
        for i, (ids, start) in enumerate(zip(job.ids, job.starts, strict=True))
    ]
    params, clock = settings(job), Clock()
    tracker = Tracker(clock.log, clock.close)
    trainer = Trainer(
        Given(base, seen),
        examples,
        examples[:1],
        params,
        TrainerServices(None, 1000, world, tracker),
    )
    lora.load_lora_weights(trainer.layers, adapter.read_weights(job.adapter))
    clock.times = [time.perf_counter()]
    done = trainer.run()
    if world.rank == 0:
        seconds = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
        report(seconds, clock.losses, peak_gb=done.peak_gb, tower_seconds=tower / len(job.ids))


if __name__ == "__main__":
    main()
