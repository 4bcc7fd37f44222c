"""python -m mondrian.resident FD: load a base, then answer what comes over the pipe.

The main thread reads, lanes compute. It ends with the pipe: no model outlives its service.
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

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import psutil

from mondrian import vlm
from mondrian.decoder import How
from mondrian.errors import MondrianError
from mondrian.form import Form
from mondrian.kernels import ON_GPU
from mondrian.lanes import LANES
from mondrian.machine import memory_left
from mondrian.resident.arms import Arms
from mondrian.resident.lane import Lane
from mondrian.room import bytes_a_row
from mondrian.service.wire import (
    Adopt,
    Ask,
    Broken,
    Done,
    Drop,
    Failed,
    Loading,
    Pulse,
    Ready,
    Setup,
    Stop,
)

_PROMPT = 2048  # tokens that a prompt with its photograph may have, where memory is reckoned


class Resident:
    """What the process holds; `where` says which lane has each critique."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.writing = pipe, Lock()
        self.lanes: list[Lane] = []
        self.where: dict[int, Lane] = {}

    def tell(self, message: Any) -> None:
        """Send to the service, from any thread."""
        if isinstance(message, Done | Failed):
            self.where.pop(message.id, None)
        try:
            with self.writing:
                self.pipe.send(message)
        except OSError:
            os._exit(0)  # the service is gone

    def load(self, setup: Setup) -> None:
        """Load the base, in the lane that will use it, and let it answer once."""
        self.tell(Loading(f"loading {setup.base}", 10))
        base = vlm.load(setup.base)
        text = base.model.config.text_config
        form = Form(base.processor.tokenizer, text.vocab_size, setup.max_new_tokens)
        how = How(setup.max_new_tokens, form=form if setup.constrained else None,
                  temperature=setup.temperature, seed=setup.seed)  # fmt: skip
        self.tell(Loading("first token", 70))
        arms = Arms(base, how, setup.image)
        each = bytes_a_row(base, _PROMPT + setup.max_new_tokens)
        rows = max(1, min(setup.rows, memory_left() // each))
        lanes = min(LANES, rows)
        self.lanes += [
            Lane(self.tell, arms, form, -(-rows // lanes)) for _ in range(lanes)
        ]  # fmt: skip
        for lane in self.lanes:
            lane.start()
        device = "Metal" if ON_GPU else "CPU"
        self.tell(Ready(base.source, base.hash, device, ON_GPU, rows))

    def hear(self, message: Any) -> None:
        """Do what the service asks, or let a lane do it."""
        if isinstance(message, Ask):
            load = list(self.where.values())
            lane = min(self.lanes, key=load.count)
            self.where[message.id] = lane
            lane.inbox.put(partial(lane.ask, message))
        elif isinstance(message, Stop):
            found = self.where.pop(message.id, None)
            if found:
                found.inbox.put(partial(found.stop, message.id))
        elif isinstance(message, Adopt | Drop):
            first = self.lanes[0]
            first.inbox.put(partial(self._change, first, message))

    def _change(self, lane: Lane, message: Adopt | Drop) -> None:
        if isinstance(message, Adopt):
            self.tell(lane.arms.adopt(message))
        else:
            lane.arms.drop(message.name)

    def pulse(self) -> None:
        """Say every second how it is."""
        own = psutil.Process()
        while True:
            memory = mx.get_active_memory() if ON_GPU else own.memory_info().rss
            stalled = max((lane.stalled for lane in self.lanes), default=0.0)
            self.tell(Pulse(len(self.where), memory, stalled))
            sleep(1)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the service, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
    os._exit(0)  # lanes are threads that never end


if __name__ == "__main__":
    main()
