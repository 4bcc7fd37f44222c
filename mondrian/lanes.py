"""Lanes: work that goes on side by side on a CPU, where MLX's element-wise kernels use one core.

Each lane is an MLX stream, that is a thread; MLX_BFS_MAX_WIDTH (mondrian/blas.py) lets them run
together. What is computed depends on how work is dealt, never on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from mondrian.kernels import ON_GPU
from mondrian.order import share_of

LANES = 1 if ON_GPU else 2


@cache
def _streams() -> list[Any]:
    device = mx.default_device()
    return [mx.default_stream(device), *(mx.new_stream(device) for _ in range(LANES - 1))]


def lanes(count: int) -> list[Any]:
    """A stream for each of `count` pieces of work, in turn."""
    return [_streams()[i % LANES] for i in range(count)]


def dealt(rows: Sequence[Any]) -> list[list[Any]]:
    """The rows of each lane; none is empty."""
    count = min(LANES, len(rows))
    return [share_of(rows, lane, count) for lane in range(count)]
