"""The model process: started with one end of a pipe, written to and listened to from threads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from mondrian.serving.engines.ipc import ShutdownRequest

WORKER_COMMAND = (sys.executable, "-m", "mondrian.serving.worker")
_BLAS_THREADS = 4
_ENDING = 5.0  # seconds that it may take to end by itself


class ModelProcess:
    """One process; another is started in its place where it dies.

    command  starts it, with the number of its end of the pipe behind
    hear     is told each message, on the event loop
    died     is told once, on the event loop, that the pipe has ended
    """

    def __init__(
        self,
        command: tuple[str, ...],
        hear: Callable[[Any], None],
        died: Callable[[ModelProcess], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell, self._died = hear, died
        self._pipe, theirs = Pipe()
        # One lane asks for all steps, so that matrix products may take every core (on a CPU).
        threads = {"OPENBLAS_NUM_THREADS": str(min(os.cpu_count() or 1, _BLAS_THREADS))}
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=sys.stderr,
            env=threads | dict(os.environ),
        )
        theirs.close()
        self._heard_at = monotonic()
        self._out: SimpleQueue[Any] = SimpleQueue()
        for work in (self._listen, self._write):
            Thread(target=work, args=(self._pipe,), name="model pipe", daemon=True).start()

    @property
    def silent_seconds(self) -> float:
        """Seconds since it said anything."""
        return monotonic() - self._heard_at

    def send(self, message: Any) -> None:
        """Written by a thread: a process that does not read holds nobody up."""
        self._out.put(message)

    def kill(self) -> None:
        """End it now; `died` is told as of any other death."""
        self._process.kill()

    def close_and_wait(self) -> int:
        """Its status, once its pipe has ended."""
        self._pipe.close()
        return self._process.wait()

    async def stop(self) -> None:
        """Let it end, and end it where it does not."""
        self.send(ShutdownRequest())
        try:
            await asyncio.to_thread(self._process.wait, _ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _write(self, pipe: Connection) -> None:
        with suppress(OSError):  # it died, which _listen sees too
            while (message := self._out.get()) is not None:
                pipe.send(message)

    def _listen(self, pipe: Connection) -> None:
        with suppress(RuntimeError):  # a loop that has ended
            try:
                while True:
                    self._loop.call_soon_threadsafe(self._dispatch_message, pipe.recv())
            except (EOFError, OSError):
                self._out.put(None)
                self._loop.call_soon_threadsafe(self._died, self)

    def _dispatch_message(self, message: Any) -> None:
        self._heard_at = monotonic()
        self._tell(message)
