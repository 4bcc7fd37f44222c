"""Order of the training rows, learning-rate schedule, and the optimizer."""

from collections.abc import Sequence
from math import cos, pi
from typing import Any, TypeVar

import mlx.optimizers as optim
import numpy as np

from mondrian.core.params import TrainParams

RowT = TypeVar("RowT")


def steps_per_epoch(rows: int, params: TrainParams) -> int:
    """Return the updates of an epoch; the last may have fewer rows."""
    return -(-rows // (params.batch_size * params.gradient_accumulation_steps))


def select_micro_batches(
    rows: Sequence[RowT], params: TrainParams, epoch: int, step: int
) -> list[list[RowT]]:
    """Return the batches that one update accumulates over; `step` counts from 0 per epoch."""
    order = np.random.default_rng((params.seed, epoch)).permutation(len(rows))
    batch_size = params.batch_size
    size = batch_size * params.gradient_accumulation_steps
    step_rows = [rows[k] for k in order[step * size : (step + 1) * size]]
    return [step_rows[i : i + batch_size] for i in range(0, len(step_rows), batch_size)]


def compute_learning_rate(params: TrainParams, step: int, steps: int) -> float:
    """Return the rate after linear warm-up; cosine and linear schedules fall to a tenth."""
    warmup_steps = max(1, round(params.warmup_ratio * steps))
    if step < warmup_steps:
        return params.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    decay = {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}
    return params.learning_rate * (0.1 + 0.9 * decay[params.lr_schedule])


def make_optimizer(params: TrainParams) -> Any:
    """Return AdamW with bias correction, in two parts: for lora_b and for the other weights."""
    lora_b, others = (
        optim.AdamW(params.learning_rate, weight_decay=params.weight_decay, bias_correction=True)
        for _ in range(2)
    )
    return optim.MultiOptimizer([lora_b, others], [lambda path, _: path.endswith("lora_b")])


def set_learning_rate(optimizer: Any, params: TrainParams, rate: float) -> None:
    """Set the rate; lora_b's is higher by train.lora_plus_ratio (LoRA+, arXiv:2402.12354)."""
    lora_b, others = optimizer.optimizers
    lora_b.learning_rate, others.learning_rate = rate * params.lora_plus_ratio, rate
