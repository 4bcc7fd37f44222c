"""Several processes that share each batch: mlx's ring, with a limit on how long one waits.

Started by `mlx.launch`, or here as local processes over loopback. One process is a world of one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mondrian.core.errors import TrainingError

_PARENT = "MONDRIAN_PARENT"  # process that started local ranks


@dataclass(frozen=True)
class ProcessGroup:
    """This process among its ranks; seconds is how long one waits for another."""

    rank: int = 0
    size: int = 1
    timeout_seconds: float = 600.0

    def sum(self, tree: Any) -> Any:
        """The sum of each array over the ranks; one message for all of them."""
        if self.size == 1:
            return tree
        flat = tree_flatten(tree)
        joined = mx.concatenate([value.reshape(-1).astype(mx.float32) for _, value in flat])
        with self.limit_wait():
            total = mx.distributed.all_sum(joined, stream=mx.cpu)
            mx.eval(total)
        out, first = [], 0
        for name, value in flat:
            out.append((name, total[first : first + value.size].reshape(value.shape)))
            first += value.size
        return tree_unflatten(out)

    def sum_numbers(self, *values: float) -> list[float]:
        """Sums of plain numbers over the ranks, in double precision where there is one rank."""
        if self.size == 1:
            return list(values)
        return [float(total.item()) for total in self.sum([mx.array(value) for value in values])]

    @contextmanager
    def limit_wait(self) -> Iterator[None]:
        """End this process where another keeps it waiting too long: a collective never returns."""
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done,), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, done: threading.Event) -> None:
        if not done.wait(self.timeout_seconds):
            sys.stderr.write(
                f"error: rank {self.rank} waited {self.timeout_seconds:g} s for another; see "
                f"what it said "
                "last, or raise machine.collective_timeout_seconds in params.yaml\n"
            )
            sys.stderr.flush()
            os._exit(1)


def is_local_rank() -> bool:
    """Whether `run_local_ranks` started this process, which has looked to memory for all of
    them."""
    return _PARENT in os.environ


def join_process_group(seconds: float) -> ProcessGroup:
    """The world this process was started into."""
    if "MLX_RANK" not in os.environ and "MLX_HOSTFILE" not in os.environ:
        return ProcessGroup()
    if is_local_rank():
        threading.Thread(
            target=_exit_with_parent, args=(int(os.environ[_PARENT]),), daemon=True
        ).start()
    group = mx.distributed.init()
    return ProcessGroup(group.rank(), group.size(), seconds)


def _exit_with_parent(parent: int) -> None:
    """End this rank when the process that started it is gone, killed with -9 perhaps."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_local_ranks(command: Sequence[str], count: int, threads: int = 1) -> None:
    """Run `count` copies of a command over mlx's ring on loopback; one that fails ends all.

    Raises TrainingError where one failed; SystemExit with the status of one that was stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        hosts = Path(folder) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports(count)]))
        env = os.environ | {"MLX_HOSTFILE": str(hosts), "OPENBLAS_NUM_THREADS": str(threads)}
        env[_PARENT] = str(os.getpid())
        processes = [
            subprocess.Popen(command, env=env | {"MLX_RANK": str(rank)}) for rank in range(count)
        ]
        try:
            while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
                time.sleep(0.1)
            ended = [p.returncode for p in processes if p.poll()]  # by themselves
        finally:
            _end(processes)
    if ended and all(code in (130, 143) for code in ended):
        sys.exit(max(ended))
    if ended:
        raise TrainingError(
            "a process of this run failed (machine.num_processes); what it said stands above"
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask each to save and stop; those that do not within a minute are ended."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + 60
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> Iterator[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    yield from [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
