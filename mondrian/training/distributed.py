"""Data-parallel training: processes share each batch over mlx's ring, with a time limit on waits.

They are started by `mlx.launch`, or here as local processes over loopback. A single process is a
group of one.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mondrian.core.errors import TrainingError

_PARENT = "MONDRIAN_PARENT"  # process that started local ranks


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks that train together; they wait for each other up to timeout_seconds."""

    rank: int = 0
    size: int = 1
    timeout_seconds: float = 600.0

    def sum(self, tree: Any) -> Any:
        """Sum each array over the ranks, all in one message."""
        if self.size == 1:
            return tree
        flat = tree_flatten(tree)
        joined = mx.concatenate([value.reshape(-1).astype(mx.float32) for _, value in flat])
        with self._limit_wait():
            total = mx.distributed.all_sum(joined, stream=mx.cpu)
            mx.eval(total)
        sums, first = [], 0
        for name, value in flat:
            sums.append((name, total[first : first + value.size].reshape(value.shape)))
            first += value.size
        return tree_unflatten(sums)

    def sum_numbers(self, *values: float) -> list[float]:
        """Sum numbers over the ranks; with one rank in double precision."""
        if self.size == 1:
            return list(values)
        return [float(total.item()) for total in self.sum([mx.array(value) for value in values])]

    def barrier(self) -> None:
        self.sum_numbers(0.0)

    @contextmanager
    def _limit_wait(self) -> Iterator[None]:
        """End this process if another does not answer in time: a collective never returns."""
        timer = threading.Timer(self.timeout_seconds, self._exit_after_timeout)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _exit_after_timeout(self) -> None:
        sys.stderr.write(
            f"error: rank {self.rank} waited {self.timeout_seconds:g} s for another; see its last "
            "output, or raise machine.collective_timeout_seconds in params.yaml\n"
        )
        sys.stderr.flush()
        os._exit(1)


def is_local_rank() -> bool:
    """Return whether `run_local_ranks` started this process; memory is checked before that."""
    return _PARENT in os.environ


def join_process_group(timeout_seconds: float) -> ProcessGroup:
    if "MLX_RANK" not in os.environ and "MLX_HOSTFILE" not in os.environ:
        return ProcessGroup()
    if is_local_rank():
        parent = int(os.environ[_PARENT])
        threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    group = mx.distributed.init()
    return ProcessGroup(group.rank(), group.size(), timeout_seconds)


def _exit_with_parent(parent: int) -> None:
    """End this rank when the process that started it has ended, for example by kill -9."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_local_ranks(command: Sequence[str], count: int, threads: int = 1) -> None:
    """Run `count` copies of a command over mlx's ring on loopback; one that fails ends all.

    Raises TrainingError then; SystemExit with the status of one that was stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _find_free_ports(count)]))
        env = os.environ | {"MLX_HOSTFILE": str(hosts), "OPENBLAS_NUM_THREADS": str(threads)}
        env[_PARENT] = str(os.getpid())
        processes = [
            subprocess.Popen(command, env=env | {"MLX_RANK": str(rank)}) for rank in range(count)
        ]
        try:
            while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
                time.sleep(0.1)
            failures = [p.returncode for p in processes if p.poll()]  # before _terminate
        finally:
            _terminate(processes)
    if failures and all(code in (130, 143) for code in failures):
        sys.exit(max(failures))
    if failures:
        raise TrainingError(
            "a training process failed (machine.num_processes); see its output above"
        )


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask each process to save and stop; kill those that do not within a minute."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + 60
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _find_free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
