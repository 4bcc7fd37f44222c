"""MLX streams that share the rows of a batch: one on a GPU, two on a CPU.

Results depend on how rows are split over streams, never on the number of cores.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import mlx.core as mx

from mondrian.model.cpu.threads import Result, run_in_threads
from mondrian.model.device import DEVICE


@cache
def _streams() -> list[Any]:
    device, count = mx.default_device(), DEVICE.num_streams
    return [mx.default_stream(device), *(mx.new_stream(device) for _ in range(count - 1))]


def assign_streams(count: int) -> list[Any]:
    """Return a stream for each of `count` tasks, round robin."""
    return [_streams()[i % DEVICE.num_streams] for i in range(count)]


def split_over_streams(rows: Sequence[Any]) -> list[list[Any]]:
    """Split rows over the streams; no part is empty."""
    count = min(DEVICE.num_streams, len(rows))
    return [shard_by_length(rows, stream, count) for stream in range(count)]


def shard_by_length(rows: Sequence[Any], rank: int, ranks: int) -> list[Any]:
    """Return the rows of one rank; the longest are assigned first, so that loads are even."""
    by_length: list[Any] = sorted(rows, key=lambda row: -len(row.ids))
    return by_length[rank::ranks] if ranks > 1 else list(rows)


def run_parallel(tasks: Sequence[Callable[[], Iterator[Result | None]]]) -> Iterator[Result]:
    """Yield the results of tasks as they come; several tasks run in a thread each.

    A task yields None to check whether it should stop; None is not passed on. Arrays that tasks
    share must be evaluated first: a thread cannot evaluate the arrays of another.
    """
    if len(tasks) == 1:
        yield from (result for result in tasks[0]() if result is not None)
    else:
        yield from run_in_threads(tasks)
