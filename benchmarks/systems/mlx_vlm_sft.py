"""Train a workload with mlx-vlm's Trainer: mlx_vlm_sft.py FOLDER [own | PATH [BATCH_SIZE STEPS]...]

PATH is a BLAS library for MLX; own selects this project's BLAS, malloc and evaluation order. On a
CPU weights are float32, on a GPU as the base stores them. Each BATCH_SIZE and STEPS is a run over
repeated rows.
"""

import ctypes
import gc
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
if sys.argv[2:3] == ["own"]:
    import mondrian.model  # noqa: F401
elif sys.argv[2:]:
    ctypes.CDLL(sys.argv[2], mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
import mlx.optimizers as optim
import mlx_vlm
from mlx.utils import tree_map
from mlx_vlm.trainer import get_peft_model
from mlx_vlm.trainer.api import Trainer, VLMTrainingArgs
from mlx_vlm.trainer.vlm.sft.runtime import collate_vlm_batch, make_task

from benchmarks.measurement import peak_rss_gb, print_result
from benchmarks.workload import ALPHA, LEARNING_RATE, RANK, Workload

LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def mlx_name(peft_name: str) -> str:
    """Return mlx-vlm's name of a weight from its name in PEFT."""
    short = peft_name.removeprefix("base_model.model.model.language_model.")
    path, kind = short.removesuffix(".weight").rsplit(".", 1)
    return f"language_model.model.{path}.{kind.lower()}"


def make_sample(workload: Workload, row: int) -> dict[str, mx.array]:
    """Return a row in the form of mlx-vlm's processor."""
    ids, prompt_length = workload.ids[row], workload.prompt_lengths[row]
    return {
        "input_ids": mx.array(ids),
        "attention_mask": mx.ones(len(ids), mx.int32),
        "completion_mask": mx.array([0] * prompt_length + [1] * (len(ids) - prompt_length)),
        "pixel_values": mx.array(workload.pixels(row)),
        "image_grid_thw": mx.array([[1, *workload.grids[row]]]),
    }


def load_base(source: str) -> Any:
    model, _ = mlx_vlm.load(source)
    if mx.default_device().type == mx.DeviceType.cpu:
        model.update(tree_map(_to_float32, model.parameters()))
    return model


def _to_float32(value: mx.array) -> mx.array:
    return value.astype(mx.float32) if mx.issubdtype(value.dtype, mx.floating) else value


def train(workload: Workload) -> dict[str, Any]:
    """Load the base and train; return seconds and loss of each step, and MLX's peak."""
    model = load_base(workload.base)
    get_peft_model(model, LORA_MODULES, rank=RANK, alpha=ALPHA, dropout=0.0, verbose=False)
    weights: Any = mx.load(str(workload.adapter / "adapter_model.safetensors"))
    model.load_weights([(mlx_name(n), v.T) for n, v in weights.items()], strict=False)
    args = VLMTrainingArgs(
        batch_size=len(workload.batches[0]),
        iters=len(workload.batches),
        steps_per_report=1,
        steps_per_eval=None,
        steps_per_save=10**6,
        max_seq_length=4096,
        train_on_completions=True,
        adapter_file=str(workload.folder / "mlx-vlm.safetensors"),
    )
    samples = [make_sample(workload, row) for row in range(len(workload.ids))]
    batches = [
        collate_vlm_batch(
            [samples[row] for row in batch], 4096, image_token_id=model.config.image_token_id
        )
        for batch in workload.batches
    ]
    task = replace(make_task(model, args), batches=lambda *_, **__: cycle(batches))
    optimizer = optim.AdamW(LEARNING_RATE, weight_decay=0.0, bias_correction=True)
    trainer = Trainer(
        model, args, task=task, train_dataset=samples, optimizer=optimizer, prepared=True
    )
    mx.reset_peak_memory()
    trainer.train()
    log = trainer.log_history
    return {
        "batch": args.batch_size,
        "seconds": [entry["step_time"] for entry in log],
        "losses": [entry["train_loss"] for entry in log],
        "peak_gb": mx.get_peak_memory() / 1e9,
        "rss_gb": peak_rss_gb(),
    }


def main() -> None:
    workload = Workload.read(Path(sys.argv[1]))
    sizes = [int(text) for text in sys.argv[3:]]
    for batch_size, num_steps in zip(sizes[::2], sizes[1::2], strict=True):
        print_result(**train(workload.repeat_rows(batch_size, num_steps)))
        gc.collect()
        mx.clear_cache()
    if not sizes:
        print_result(**train(workload))


if __name__ == "__main__":
    main()
