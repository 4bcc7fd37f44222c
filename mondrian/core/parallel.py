"""Work in parallel processes: results in order, with bounded memory."""

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

Item = TypeVar("Item")
State = TypeVar("State")
Batch = TypeVar("Batch")
Result = TypeVar("Result")

_PENDING_PER_PROCESS = 3  # batches per process: queued, in progress, or done and not yielded
_worker_task: tuple[Callable[[Any, Any], Any], Any]


def split_into_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of at most `size` items; items are read only when needed."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def map_in_processes(
    function: Callable[[State, Batch], Result],
    state: State,
    batches: Iterable[Batch],
    max_serial_batches: int,
) -> Iterator[Result]:
    """Yield function(state, batch) for each batch, in order.

    state       sent to each process once
    max_serial_batches  number of batches up to which starting processes would take longer

    Raises MondrianError if the system kills a process.
    """
    iterator = iter(batches)
    first = list(islice(iterator, max_serial_batches + 1))
    if len(first) <= max_serial_batches:
        yield from (function(state, batch) for batch in first)
        return
    cores = os.cpu_count() or 1
    pool = ProcessPoolExecutor(cores, get_context("spawn"), _init_worker, (function, state))
    pending: deque[Future[Result]] = deque()
    try:
        for batch in chain(first, iterator):
            pending.append(pool.submit(_run_batch, batch))
            if len(pending) > _PENDING_PER_PROCESS * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise MondrianError(
            "the system killed a process of this run, usually for lack of memory; "
            "close other programs and run again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker(function: Callable[[Any, Any], Any], state: Any) -> None:
    global _worker_task
    _worker_task = function, state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit if the parent is killed; otherwise the process would wait for work forever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _run_batch(batch: Any) -> Any:
    function, state = _worker_task
    return function(state, batch)
