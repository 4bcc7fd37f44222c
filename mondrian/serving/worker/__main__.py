"""python -m mondrian.serving.worker FD: load a base, then answer what comes over the pipe.

The main thread reads, the lane computes. It ends with the pipe: no model outlives its service.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock, Thread
from time import sleep
from typing import Any

import mlx.core as mx
import psutil

from mondrian.core.errors import MondrianError
from mondrian.model import vlm
from mondrian.model.batch_generator import How
from mondrian.model.constrained import Form
from mondrian.model.hardware import bytes_a_row, memory_free
from mondrian.model.kernels import ON_GPU
from mondrian.serving.engines.ipc import (
    Adopt,
    Ask,
    Broken,
    Drop,
    Loading,
    Pulse,
    Quit,
    Ready,
    Setup,
    Stop,
)
from mondrian.serving.worker.adapters import Arms
from mondrian.serving.worker.batcher import Lane

_PROMPT = 2048  # tokens that a prompt with its photograph may have, where memory is reckoned


class Resident:
    """What the process holds."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.writing = pipe, Lock()
        self.lane: Lane | None = None

    def tell(self, message: Any) -> None:
        """Send to the service, from any thread."""
        try:
            with self.writing:
                self.pipe.send(message)
        except OSError:
            os._exit(0)  # the service is gone

    def load(self, setup: Setup) -> None:
        """Load the base and let it answer once."""
        self.tell(Loading(f"loading {setup.base}", 10))
        base = vlm.load(setup.base)
        text = base.model.config.text_config
        form = Form(base.processor.tokenizer, text.vocab_size, setup.max_new_tokens)
        how = How(setup.max_new_tokens, form=form if setup.constrained else None)
        self.tell(Loading("first token", 70))
        arms = Arms(base, how, setup.image)
        each = bytes_a_row(base, _PROMPT + setup.max_new_tokens)
        rows = max(1, min(setup.rows, memory_free() // each))
        self.lane = Lane(self.tell, arms, form, rows)
        self.lane.start()
        device = "Metal" if ON_GPU else "CPU"
        self.tell(Ready(base.source, base.hash, device, ON_GPU, rows))

    def hear(self, message: Any) -> None:
        """Let the lane do what the service asks."""
        lane = self.lane
        assert lane is not None
        if isinstance(message, Quit):
            os._exit(0)
        if isinstance(message, Ask):
            lane.inbox.put(partial(lane.ask, message))
        elif isinstance(message, Stop):
            lane.inbox.put(partial(lane.stop, message.id))
        elif isinstance(message, Adopt | Drop):
            lane.inbox.put(partial(self._change, lane, message))

    def _change(self, lane: Lane, message: Adopt | Drop) -> None:
        if isinstance(message, Adopt):
            self.tell(lane.arms.adopt(message))
        else:
            lane.arms.drop(message.name)
        lane.tidy()

    def pulse(self) -> None:
        """Say every second how it is."""
        own = psutil.Process()
        while True:
            memory = mx.get_active_memory() if ON_GPU else own.memory_info().rss
            stalled = self.lane.stalled if self.lane else 0.0
            self.tell(Pulse(memory, stalled))
            sleep(1)


def main() -> None:
    for kind in (signal.SIGINT, signal.SIGTERM):  # to the whole group: the service ends this
        signal.signal(kind, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    resident = Resident(pipe)
    Thread(target=resident.pulse, daemon=True).start()
    try:
        resident.load(pipe.recv())
        while True:
            resident.hear(pipe.recv())
    except (EOFError, OSError):
        pass  # the service is gone
    except MondrianError as error:
        resident.tell(Broken(str(error)))
    os._exit(0)  # the lane is a thread that never ends


if __name__ == "__main__":
    main()
