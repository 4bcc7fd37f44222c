"""Worker threads for generation on a CPU.

The thread that issues a step waits until it is computed, so each stream gets a thread.
MLX_BFS_MAX_WIDTH (mondrian/model/cpu/openblas.py) lets the streams run at the same time.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

import mlx.core as mx

Result = TypeVar("Result")
Task = Callable[[], Iterator[Any]]
_RESULT, _END = "result", "end"


def run_in_threads(tasks: Sequence[Callable[[], Iterator[Result | None]]]) -> Iterator[Result]:
    """Yield the results of tasks that run in a thread each; raise the first error of any."""
    results: SimpleQueue[Any] = SimpleQueue()
    stop = Event()
    for task, thread in zip(tasks, _start_worker_threads(len(tasks)), strict=True):
        thread.put(partial(_send_results, task, results, stop))
    errors: list[BaseException | None] = []
    try:
        while len(errors) < len(tasks):
            kind, payload = results.get()
            if kind == _RESULT:
                yield payload
                continue
            errors.append(payload)
            if payload:
                stop.set()
    finally:
        stop.set()
        while len(errors) < len(tasks):
            kind, payload = results.get()
            errors += [payload] if kind == _END else []
    for error in errors:
        if error:
            raise error


def _send_results(task: Task, results: SimpleQueue[Any], stop: Event) -> None:
    task_error = None
    try:
        for result in task():
            if result is not None:
                results.put((_RESULT, result))
            if stop.is_set():
                break
    except BaseException as error:  # raised again in run_in_threads
        task_error = error
    results.put((_END, task_error))


@cache
def _start_worker_threads(count: int) -> list[SimpleQueue[Callable[[], None]]]:
    """Return the task queue of each thread. Threads never end: MLX aborts if one ends at exit."""
    queues: list[SimpleQueue[Callable[[], None]]] = [SimpleQueue() for _ in range(count)]
    for queue in queues:
        Thread(target=_run_worker, args=(queue,), name="mlx-stream", daemon=True).start()
    return queues


def _run_worker(queue: SimpleQueue[Callable[[], None]]) -> None:
    mx.set_default_stream(mx.new_stream(mx.default_device()))
    while True:
        queue.get()()
