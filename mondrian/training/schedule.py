"""The order in which rows are seen, and who of several ranks sees which."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import TypeVar

import numpy as np

from mondrian.core.params import Train

RowT = TypeVar("RowT")


def steps_per_epoch(rows: int, params: Train) -> int:
    """Updates an epoch; every row counts in one, the last may have fewer rows."""
    return -(-rows // (params.batch_size * params.gradient_accumulation_steps))


def select_micro_batches(
    rows: Sequence[RowT], params: Train, epoch: int, step: int
) -> list[list[RowT]]:
    """The batches of one update, counted from 0 in its epoch; their gradients are added up."""
    order = np.random.default_rng((params.seed, epoch)).permutation(len(rows))
    size = params.batch_size * params.gradient_accumulation_steps
    step_rows = [rows[k] for k in order[step * size : (step + 1) * size]]
    return [
        step_rows[i : i + params.batch_size] for i in range(0, len(step_rows), params.batch_size)
    ]


def compute_learning_rate(params: Train, step: int, steps: int) -> float:
    """Linear warm-up, then train.lr_schedule: half a cosine or a line down to a tenth, or no
    fall."""
    warm = max(1, round(params.warmup_ratio * steps))
    if step < warm:
        return params.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    left = {"cosine": 0.5 * (1 + cos(pi * done)), "linear": 1 - done, "constant": 1.0}
    return params.learning_rate * (0.1 + 0.9 * left[params.lr_schedule])
