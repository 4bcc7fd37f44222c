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
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.hardware import available_memory, bytes_per_sequence
from mondrian.model.kernels import ON_GPU
from mondrian.serving.engines.ipc import (
    CancelRequest,
    FatalError,
    GenerateRequest,
    Heartbeat,
    LoadAdapterRequest,
    LoadProgress,
    ModelReady,
    ShutdownRequest,
    UnloadAdapterRequest,
    WorkerConfig,
)
from mondrian.serving.worker.adapters import AdapterRegistry
from mondrian.serving.worker.batcher import Batcher

_PROMPT_TOKENS = 2048  # tokens that a prompt with its photograph may have, where memory is reckoned


class ModelWorker:
    """What the process holds."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.writing = pipe, Lock()
        self.lane: Batcher | None = None

    def send(self, message: Any) -> None:
        """Send to the service, from any thread."""
        try:
            with self.writing:
                self.pipe.send(message)
        except OSError:
            os._exit(0)  # the service is gone

    def load(self, setup: WorkerConfig) -> None:
        """Load the base and let it answer once."""
        self.send(LoadProgress(f"loading {setup.base}", 10))
        base = vlm.load(setup.base)
        text = base.model.config.text_config
        form = CritiqueGrammar(base.processor.tokenizer, text.vocab_size, setup.max_new_tokens)
        sampling_params = SamplingParams(
            setup.max_new_tokens, grammar=form if setup.constrained else None
        )
        self.send(LoadProgress("first token", 70))
        arms = AdapterRegistry(base, sampling_params, setup.pixel_limits)
        row_bytes = bytes_per_sequence(base, _PROMPT_TOKENS + setup.max_new_tokens)
        rows = max(1, min(setup.rows, available_memory() // row_bytes))
        self.lane = Batcher(self.send, arms, form, rows)
        self.lane.start()
        device = "Metal" if ON_GPU else "CPU"
        self.send(ModelReady(base.source, base.hash, device, ON_GPU, rows))

    def handle_message(self, message: Any) -> None:
        """Let the lane do what the service asks."""
        lane = self.lane
        assert lane is not None
        if isinstance(message, ShutdownRequest):
            os._exit(0)
        if isinstance(message, GenerateRequest):
            lane.inbox.put(partial(lane.enqueue, message))
        elif isinstance(message, CancelRequest):
            lane.inbox.put(partial(lane.cancel, message.id))
        elif isinstance(message, LoadAdapterRequest | UnloadAdapterRequest):
            lane.inbox.put(partial(self._change, lane, message))

    def _change(self, lane: Batcher, message: LoadAdapterRequest | UnloadAdapterRequest) -> None:
        if isinstance(message, LoadAdapterRequest):
            self.send(lane.arms.load_and_verify(message))
        else:
            lane.arms.remove(message.name)
        lane.prune_arms()

    def send_heartbeats(self) -> None:
        """Say every second how it is."""
        own = psutil.Process()
        while True:
            memory = mx.get_active_memory() if ON_GPU else own.memory_info().rss
            stalled = self.lane.seconds_since_step if self.lane else 0.0
            self.send(Heartbeat(memory, stalled))
            sleep(1)


def main() -> None:
    for kind in (signal.SIGINT, signal.SIGTERM):  # to the whole group: the service ends this
        signal.signal(kind, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    resident = ModelWorker(pipe)
    Thread(target=resident.send_heartbeats, daemon=True).start()
    try:
        resident.load(pipe.recv())
        while True:
            resident.handle_message(pipe.recv())
    except (EOFError, OSError):
        pass  # the service is gone
    except MondrianError as error:
        resident.send(FatalError(str(error)))
    os._exit(0)  # the lane is a thread that never ends


if __name__ == "__main__":
    main()
