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

LANES = 1 if ON_GPU else 2
Result = TypeVar("Result")


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


def side_by_side(works: Sequence[Callable[[], Iterator[Result | None]]]) -> Iterator[Result]:
    """What pieces of work yield, as it comes; where there are several, each in a thread of its own.

    A None is not told: with it a piece of work only asks whether it is still wanted. Arrays that
    they share have to be evaluated: a thread cannot evaluate those of another.
    """
    if len(works) == 1:
        yield from (one for one in works[0]() if one is not None)
        return
    told: SimpleQueue[Any] = SimpleQueue()
    stop = Event()
    for work, thread in zip(works, _threads(len(works)), strict=True):
        thread.put(partial(_tell, work, told, stop))
    faults: list[BaseException | None] = []
    try:
        while len(faults) < len(works):
            kind, one = told.get()
            if kind == _YIELDS:
                yield one
            else:
                faults.append(one)
                stop.set() if one else None
    finally:
        stop.set()
        while len(faults) < len(works):
            kind, one = told.get()
            faults += [one] if kind == _ENDS else []
    for fault in faults:
        if fault:
            raise fault


_YIELDS, _ENDS = "yields", "ends"


def _tell(work: Callable[[], Iterator[Any]], told: SimpleQueue[Any], stop: Event) -> None:
    fault = None
    try:
        for one in work():
            if one is not None:
                told.put((_YIELDS, one))
            if stop.is_set():
                break
    except BaseException as error:  # raised again by who waits
        fault = error
    told.put((_ENDS, fault))


@cache
def _threads(count: int) -> list[SimpleQueue[Callable[[], None]]]:
    """What each is to do next. They never end: MLX aborts where one ends while the process does."""
    queues: list[SimpleQueue[Callable[[], None]]] = [SimpleQueue() for _ in range(count)]
    for queue in queues:
        Thread(target=_work, args=(queue,), name="lane", daemon=True).start()
    return queues


def _work(queue: SimpleQueue[Callable[[], None]]) -> None:
    mx.set_default_stream(mx.new_stream(mx.default_device()))
    while True:
        queue.get()()


def share_of(rows: Sequence[Any], rank: int, ranks: int) -> list[Any]:
    """The rows of one rank: the longest are dealt first, so that no rank waits long."""
    by_length: list[Any] = sorted(rows, key=lambda row: -len(row.ids))
    return by_length[rank::ranks] if ranks > 1 else list(rows)
