"""Lanes: work that goes on side by side on a CPU, where MLX's element-wise kernels use one core.

Each lane is an MLX stream, that is a thread; MLX_BFS_MAX_WIDTH (mondrian/model/blas.py) lets them
run together. Many small steps one after the other, as generation has, are bound by the thread that
asks for them instead, so that each lane gets such a thread too. What is computed depends on how
work is dealt, never on how many cores there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

import mlx.core as mx

from mondrian.model.kernels import ON_GPU

NUM_STREAMS = 1 if ON_GPU else 2
Result = TypeVar("Result")


@cache
def _streams() -> list[Any]:
    device = mx.default_device()
    return [mx.default_stream(device), *(mx.new_stream(device) for _ in range(NUM_STREAMS - 1))]


def assign_streams(count: int) -> list[Any]:
    """A stream for each of `count` pieces of work, in turn."""
    return [_streams()[i % NUM_STREAMS] for i in range(count)]


def split_over_streams(rows: Sequence[Any]) -> list[list[Any]]:
    """The rows of each lane; none is empty."""
    count = min(NUM_STREAMS, len(rows))
    return [shard_by_length(rows, lane, count) for lane in range(count)]


def run_parallel(works: Sequence[Callable[[], Iterator[Result | None]]]) -> Iterator[Result]:
    """What pieces of work yield, as it comes; where there are several, each in a thread of its own.

    A None is not told: with it a piece of work only asks whether it is still wanted. Arrays that
    they share have to be evaluated: a thread cannot evaluate those of another.
    """
    if len(works) == 1:
        yield from (result for result in works[0]() if result is not None)
        return
    results: SimpleQueue[Any] = SimpleQueue()
    stop = Event()
    for work, thread in zip(works, _start_worker_threads(len(works)), strict=True):
        thread.put(partial(_send_results, work, results, stop))
    faults: list[BaseException | None] = []
    try:
        while len(faults) < len(works):
            kind, payload = results.get()
            if kind == _YIELDS:
                yield payload
            else:
                faults.append(payload)
                stop.set() if payload else None
    finally:
        stop.set()
        while len(faults) < len(works):
            kind, payload = results.get()
            faults += [payload] if kind == _ENDS else []
    for fault in faults:
        if fault:
            raise fault


_YIELDS, _ENDS = "yields", "ends"


def _send_results(
    work: Callable[[], Iterator[Any]], results: SimpleQueue[Any], stop: Event
) -> None:
    fault = None
    try:
        for result in work():
            if result is not None:
                results.put((_YIELDS, result))
            if stop.is_set():
                break
    except BaseException as error:  # raised again by who waits
        fault = error
    results.put((_ENDS, fault))


@cache
def _start_worker_threads(count: int) -> list[SimpleQueue[Callable[[], None]]]:
    """What each is to do next. They never end: MLX aborts where one ends while the process does."""
    queues: list[SimpleQueue[Callable[[], None]]] = [SimpleQueue() for _ in range(count)]
    for queue in queues:
        Thread(target=_run_worker, args=(queue,), name="lane", daemon=True).start()
    return queues


def _run_worker(queue: SimpleQueue[Callable[[], None]]) -> None:
    mx.set_default_stream(mx.new_stream(mx.default_device()))
    while True:
        queue.get()()


def shard_by_length(rows: Sequence[Any], rank: int, ranks: int) -> list[Any]:
    """The rows of one rank: the longest are dealt first, so that no rank waits long."""
    by_length: list[Any] = sorted(rows, key=lambda row: -len(row.ids))
    return by_length[rank::ranks] if ranks > 1 else list(rows)
