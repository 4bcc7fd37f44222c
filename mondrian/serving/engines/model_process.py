"""The model process with its pipe, and why it ended."""

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from mondrian.core.environment import environment_without_secrets
from mondrian.core.gpu_errors import describe_exit
from mondrian.serving.engines import ipc

_BLAS_THREADS = 4
_KEPT_LINES = 20  # of the output of the model process, to say why it ended
_MAX_LINE = 10_000  # characters; a longer line is copied in pieces, so that memory is limited
_OUTPUT_TIMEOUT = 1.0  # seconds for the rest of its output
_STOP_TIMEOUT = 5.0  # seconds


class ModelProcess:
    """A process with one end of a pipe; two threads read and write the other end.

    A third one copies what the process prints to stderr, and keeps the last lines.

    command     starts it; the number of its end of the pipe is appended
    on_message  called with each message, on the event loop
    on_exit     called once when the pipe has ended, on the event loop
    """

    def __init__(
        self,
        command: tuple[str, ...],
        on_message: Callable[[Any], None],
        on_exit: Callable[["ModelProcess"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_exit = on_message, on_exit
        self._pipe, worker_pipe = Pipe()
        # One thread runs all steps, so matrix products may use every core (on a CPU).
        threads = {"OPENBLAS_NUM_THREADS": str(min(os.cpu_count() or 1, _BLAS_THREADS))}
        self._process = subprocess.Popen(
            [*command, str(worker_pipe.fileno())],
            pass_fds=[worker_pipe.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=threads | environment_without_secrets(),
        )
        worker_pipe.close()
        self.last_message = monotonic()
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._output_thread = Thread(target=self._copy_output, name="model output", daemon=True)
        self._output_thread.start()
        for target in (self._read, self._write):
            Thread(target=target, name="model pipe", daemon=True).start()

    def send(self, message: Any) -> None:
        """Queue a message. A thread writes it, so a process that does not read blocks nothing."""
        self._outbox.put(message)

    def kill(self) -> None:
        self._process.kill()

    def close_and_wait(self) -> str:
        """Return why the process ended; to be called once the pipe has ended."""
        self._pipe.close()
        status = self._process.wait()
        self._output_thread.join(_OUTPUT_TIMEOUT)
        return describe_exit(status, self._last_lines.copy(), ipc.MEMORY_FIX)

    async def stop(self) -> None:
        self.send(ipc.ShutdownRequest())
        try:
            await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait)

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in iter(lambda: lines.readline(_MAX_LINE), ""):
                self._last_lines.append(line)
                with suppress(OSError, ValueError):  # a full disk, a closed stderr
                    sys.stderr.write(line)

    def _write(self) -> None:
        with suppress(OSError):  # the process ended; _read notices it too
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def _read(self) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            try:
                while True:
                    message = self._pipe.recv()
                    self.last_message = monotonic()
                    self._loop.call_soon_threadsafe(self._on_message, message)
            except (EOFError, OSError):
                self._outbox.put(None)
                self._loop.call_soon_threadsafe(self._on_exit, self)
