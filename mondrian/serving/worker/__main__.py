"""python -m mondrian.serving.worker FD: load a base, then answer requests from the pipe FD.

The main thread reads the pipe, the batcher's thread computes. The process ends when the pipe is
closed, so no model outlives its service.
"""

import os
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock, Thread
from time import sleep
from typing import Any

from mondrian.core.errors import MondrianError
from mondrian.model import vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.device import DEVICE
from mondrian.model.hardware import available_memory, bytes_per_sequence
from mondrian.model.memory_limits import memory_in_use, set_memory_limits
from mondrian.serving.engines import ipc
from mondrian.serving.worker.adapters import AdapterRegistry
from mondrian.serving.worker.batcher import Batcher

_PROMPT_TOKENS = 2048  # tokens of a prompt with its image, for the estimate of memory


class ModelWorker:
    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.write_lock = pipe, Lock()
        self.batcher: Batcher | None = None

    def send(self, message: Any) -> None:
        """Send a message to the service, from any thread."""
        try:
            with self.write_lock:
                self.pipe.send(message)
        except OSError:
            os._exit(0)  # the service has ended

    def load(self, config: ipc.WorkerConfig) -> None:
        """Load the base and generate a token with it."""
        set_memory_limits(config.cache_limit_gb)
        self.send(ipc.LoadProgress(f"loading {config.base}", 10))
        base = vlm.load(config.base)
        vocabulary_size = base.model.config.text_config.vocab_size
        max_new_tokens = config.max_new_tokens
        grammar = CritiqueGrammar(base.processor.tokenizer, vocabulary_size, max_new_tokens)
        constraint = grammar if config.constrained else None
        sampling_params = SamplingParams(max_new_tokens, grammar=constraint)
        self.send(ipc.LoadProgress("first token", 70))
        adapters = AdapterRegistry(base, sampling_params, config.pixel_limits)
        sequence_bytes = bytes_per_sequence(base, _PROMPT_TOKENS + max_new_tokens)
        batch_size = max(1, min(config.batch_size, available_memory() // sequence_bytes))
        self.batcher = Batcher(self.send, adapters, grammar, batch_size)
        self.batcher.start()
        self.send(ipc.ModelReady(DEVICE.kind, DEVICE.is_gpu, batch_size, base.hash))

    def handle_message(self, message: Any) -> None:
        """Pass a request of the service to the batcher's thread."""
        batcher = self.batcher
        assert batcher is not None
        match message:
            case ipc.ShutdownRequest():
                os._exit(0)
            case ipc.GenerateRequest():
                batcher.inbox.put(partial(batcher.enqueue, message))
            case ipc.CancelRequest():
                batcher.inbox.put(partial(batcher.cancel, message.id))
            case ipc.LoadAdapterRequest():
                batcher.inbox.put(partial(batcher.load_adapter, message))
            case ipc.UnloadAdapterRequest():
                batcher.inbox.put(partial(batcher.unload_adapter, message.name))

    def send_heartbeats(self) -> None:
        while True:
            stalled = self.batcher.seconds_since_step if self.batcher else 0.0
            self.send(ipc.Heartbeat(memory_in_use(), stalled))
            sleep(1)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the group; the service stops this one
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    worker = ModelWorker(pipe)
    Thread(target=worker.send_heartbeats, daemon=True).start()
    try:
        worker.load(pipe.recv())
        while True:
            worker.handle_message(pipe.recv())
    except (EOFError, OSError):
        pass  # the service has ended
    except MondrianError as error:
        worker.send(ipc.FatalError(str(error)))
    os._exit(0)  # the batcher's thread never ends


if __name__ == "__main__":
    main()
