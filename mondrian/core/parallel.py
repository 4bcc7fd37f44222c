"""Work spread over the cores: results in order, only so much waiting that memory stays bounded."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from mondrian.core.errors import MondrianError

WorkerState = TypeVar("WorkerState")
Batch = TypeVar("Batch")
Result = TypeVar("Result")
Item = TypeVar("Item")

_PENDING_PER_PROCESS = 3  # batches a process that are done or under way
_worker_context: tuple[Callable[[Any, Any], Any], Any]


def split_into_batches(things: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Things in lists of so many, drawn as they are wanted."""
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def spread(
    work: Callable[[WorkerState, Batch], Result],
    state: WorkerState,
    batches: Iterable[Batch],
    alone: int,
) -> Iterator[Result]:
    """work(state, batch) for each batch, in order.

    state  sent to each process once
    alone  batches up to which no process is worth its start

    Raises MondrianError where the system ends a process.
    """
    rest = iter(batches)
    first = list(islice(rest, alone + 1))
    if len(first) <= alone:
        yield from (work(state, batch) for batch in first)
        return
    cores = os.cpu_count() or 1
    pool = ProcessPoolExecutor(cores, get_context("spawn"), _init_worker, (work, state))
    waiting: deque[Future[Result]] = deque()
    try:
        for batch in chain(first, rest):
            waiting.append(pool.submit(_run, batch))
            if len(waiting) > _PENDING_PER_PROCESS * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise MondrianError(
            "the system ended a process of this run, for lack of memory as a rule; "
            "close other programs and run again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker(work: Callable[[Any, Any], Any], state: Any) -> None:
    global _worker_context
    _worker_context = work, state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _run(batch: Any) -> Any:
    work, state = _worker_context
    return work(state, batch)
