"""One job of benchmarks/train.py with mlx-vlm's Trainer: mlx_vlm_sft.py FOLDER [own | PATH]

PATH is a BLAS for MLX to use; own takes this project's, with its malloc and order of work too.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
if sys.argv[2:] == ["own"]:
    import mondrian.model  # noqa: F401
elif sys.argv[2:]:
    ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import mlx_vlm  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from mlx_vlm.trainer import get_peft_model  # noqa: E402
from mlx_vlm.trainer.api import Trainer, VLMTrainingArgs  # noqa: E402
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, make_task  # noqa: E402

from benchmarks.job import ALPHA, RANK, RATE, Job, report  # noqa: E402

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def mlx_name(name: str) -> str:
    """mlx-vlm's name of a weight that PEFT names."""
    short = name.removeprefix("base_model.model.model.language_model.")
    path, kind = short.removesuffix(".weight").rsplit(".", 1)
    return f"language_model.model.{path}.{kind.lower()}"


def sample(job: Job, row: int) -> dict[str, mx.array]:
    """One row as mlx-vlm's own processor gives it."""
    ids, start, grid = job.ids[row], job.starts[row], job.grids[row]
    return {
        "input_ids": mx.array(ids),
        "attention_mask": mx.ones(len(ids), mx.int32),
        "completion_mask": mx.array([0] * start + [1] * (len(ids) - start)),
        "pixel_values": mx.array(job.pixels(row)),
        "image_grid_thw": mx.array([[1, *grid]]),
    }


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    model, processor = mlx_vlm.load(job.base)
    model.update(tree_map(lambda a: a.astype(mx.float32), model.parameters()))
    get_peft_model(model, list(NAMES), rank=RANK, alpha=ALPHA, dropout=0.0, verbose=False)
    first: Any = mx.load(str(job.adapter / "adapter_model.safetensors"))
    model.load_weights([(mlx_name(n), v.T) for n, v in first.items()], strict=False)
    args = VLMTrainingArgs(
        batch_size=len(job.batches[0]),
        iters=len(job.batches),
        steps_per_report=1,
        steps_per_eval=None,
        steps_per_save=10**6,
        max_seq_length=4096,
        train_on_completions=True,
        adapter_file=str(job.folder / "mlx-vlm.safetensors"),
    )
    samples = [sample(job, i) for i in range(len(job.ids))]
    batches = [
        collate_vlm_batch(
            [samples[i] for i in batch], 4096, image_token_id=model.config.image_token_id
        )
        for batch in job.batches
    ]
    task = replace(make_task(model, args), batches=lambda *_, **__: cycle(batches))
    optimizer = optim.AdamW(RATE, weight_decay=0.0, bias_correction=True)
    trainer = Trainer(
        model, args, task=task, train_dataset=samples, optimizer=optimizer, prepared=True
    )
    mx.reset_peak_memory()
    trainer.train()
    log = trainer.log_history
    report(
        [e["step_time"] for e in log],
        [e["train_loss"] for e in log],
        peak_gb=mx.get_peak_memory() / 1e9,
    )


if __name__ == "__main__":
    main()
