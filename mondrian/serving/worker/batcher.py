"""Continuous batching: sequences of all arms, those that can share a step in one batch."""

import os
import sys
import traceback
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

import mlx.core as mx

from mondrian.core.errors import ERROR_PREFIX, MondrianError, one_line
from mondrian.core.gpu_errors import explain_gpu_error, is_gpu_lost
from mondrian.model.batch_generator import BatchGenerator, SequenceState
from mondrian.model.constrained import CritiqueGrammar
from mondrian.serving.engines import ipc
from mondrian.serving.engines.base import Completion, EngineFault, NoAdapter, TimedOut
from mondrian.serving.worker.adapters import AdapterRegistry, Arm

Send = Callable[[Any], None]
_PROGRESS_INTERVAL = 0.5  # seconds between token counts of a sequence that is not streamed


@dataclass(eq=False)
class _ActiveRequest:
    request: ipc.GenerateRequest
    arm: Arm
    sequence: SequenceState
    warm: bool
    started: float  # monotonic seconds, as the next two
    last_progress: float
    first_token: float = 0.0
    streamed_tokens: int = 0
    decoder: Any = field(default_factory=lambda: getincrementaldecoder("utf-8")("replace"))

    def take_new_text(self, grammar: CritiqueGrammar) -> str:
        """Return the text since the last call."""
        new_ids = self.sequence.output_ids[self.streamed_tokens :]
        self.streamed_tokens += len(new_ids)
        end_ids = self.arm.vlm.end_ids
        text_ids = [token for token in new_ids if token not in end_ids]
        return str(self.decoder.decode(b"".join(map(grammar.token_bytes, text_ids))))


class Batcher:
    """The one thread that uses MLX once everything is loaded."""

    def __init__(
        self, send: Send, adapters: AdapterRegistry, grammar: CritiqueGrammar, max_sequences: int
    ) -> None:
        self.send, self.adapters, self.grammar = send, adapters, grammar
        self.max_sequences = max_sequences
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._last_step, self._busy = monotonic(), False
        self._active: dict[SequenceState, _ActiveRequest] = {}
        self._waiting: deque[ipc.GenerateRequest] = deque()
        self._generators: dict[int, BatchGenerator] = {}  # by Arm.group

    def start(self) -> None:
        """Start the thread. It never ends: MLX aborts if a thread ends while the process exits."""
        Thread(target=self._run, name="batcher", daemon=True).start()

    @property
    def seconds_since_step(self) -> float:
        """Seconds since the last step; 0 without work."""
        return monotonic() - self._last_step if self._active or self._busy else 0.0

    def _run(self) -> None:
        try:
            mx.set_default_stream(mx.new_stream(mx.default_device()))
            while True:
                while not self._active or not self.inbox.empty():
                    call = self._wait_for_call()
                    self._busy, self._last_step = True, monotonic()
                    call()
                    self._start_waiting()
                for group in list(self._generators):
                    self._step(group)
                self._start_waiting()
                self._last_step, self._busy = monotonic(), False
        except BaseException:  # a bug: a new process is better than a thread that hangs
            traceback.print_exc()
            os._exit(70)

    def _wait_for_call(self) -> Callable[[], None]:
        """Return the next call of the inbox; without work, give MLX's cache back meanwhile."""
        self._busy = False
        if not self._active and self.inbox.empty():
            mx.clear_cache()
        return self.inbox.get()

    def enqueue(self, request: ipc.GenerateRequest) -> None:
        """Generate a critique as soon as a slot is free; called in the batcher's thread."""
        self._waiting.append(request)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._active) < self.max_sequences:
            self._start(self._waiting.popleft())

    def _start(self, request: ipc.GenerateRequest) -> None:
        started = self._last_step = monotonic()
        adapters = self.adapters
        arm = adapters.arm_by_name.get(request.arm)
        if arm is None:
            error = NoAdapter(f"the adapter of {request.arm} was unloaded")
            self.send(ipc.GenerationResult(request.id, error))
            return
        try:
            sequence, prefix, warm = adapters.start_sequence(arm, request)
            if arm.group not in self._generators:
                self._generators[arm.group] = adapters.create_generator(arm, self.max_sequences)
            self._generators[arm.group].insert(sequence, prefix)
        except (MondrianError, RuntimeError, MemoryError) as error:
            self.send(ipc.GenerationResult(request.id, _to_fault(error)))
            return
        self._active[sequence] = _ActiveRequest(request, arm, sequence, warm, started, started)

    def cancel(self, id: int) -> None:
        """Stop a request that no client waits for any more, and free its slot."""
        self._waiting = deque(request for request in self._waiting if request.id != id)
        for active in list(self._active.values()):
            if active.request.id == id:
                self._remove(active)

    def _step(self, group: int) -> None:
        generator = self._generators[group]
        try:
            ended = generator.step() if generator.active_sequences else []
        except (RuntimeError, MemoryError) as error:
            fault = _to_fault(error)
            for sequence in generator.active_sequences:
                self._finish(self._active[sequence], fault)
            del self._generators[group]
            return
        now = monotonic()
        stepped = [self._active[sequence] for sequence in generator.active_sequences + ended]
        for active in stepped:
            active.first_token = active.first_token or now
        self._send_progress(stepped, now)
        for sequence in ended:
            active = self._active[sequence]
            self._finish(active, _completion(active, now))
        for sequence in generator.active_sequences:
            active = self._active[sequence]
            seconds, tokens = active.request.timeout_seconds, len(sequence.output_ids)
            if now > active.started + seconds:
                self._remove(active)
                fault = TimedOut(f"not done after {seconds:g} s, at {tokens} tokens")
                self.send(ipc.GenerationResult(active.request.id, fault))
        if not generator.active_sequences:
            self._generators.pop(group, None)

    def _forget(self, active: _ActiveRequest) -> None:
        del self._active[active.sequence]
        self._prune_adapters()

    def _finish(self, active: _ActiveRequest, result: Completion | EngineFault) -> None:
        self._forget(active)
        self.send(ipc.GenerationResult(active.request.id, result))

    def _remove(self, active: _ActiveRequest) -> None:
        """Stop generating a sequence before its end."""
        self._forget(active)
        generator = self._generators[active.arm.group]
        generator.remove(active.sequence)
        if not generator.active_sequences:
            del self._generators[active.arm.group]

    def load_adapter(self, request: ipc.LoadAdapterRequest) -> None:
        adapter = self.adapters.load_and_verify(request)
        _exit_if_gpu_lost(adapter.fault)
        self.send(adapter)
        self._prune_adapters()

    def unload_adapter(self, name: str) -> None:
        self.adapters.remove(name)
        self._prune_adapters()

    def _prune_adapters(self) -> None:
        self.adapters.prune({active.arm for active in self._active.values()})

    def _send_progress(self, stepped: list[_ActiveRequest], now: float) -> None:
        progress = []
        for active in stepped:
            id, tokens = active.request.id, len(active.sequence.output_ids)
            if active.request.stream:
                progress.append((id, active.take_new_text(self.grammar), tokens))
            elif now - active.last_progress > _PROGRESS_INTERVAL:
                progress.append((id, "", tokens))
                active.last_progress = now
        if progress:
            self.send(ipc.TokensGenerated(progress))


def _to_fault(error: Exception) -> EngineFault:
    """Return the fault of a request; a lost GPU ends the process, and its requests are retried."""
    text = one_line(error)
    _exit_if_gpu_lost(text)
    return EngineFault(explain_gpu_error(text, ipc.MEMORY_FIX) or text)


def _exit_if_gpu_lost(text: str) -> None:
    if is_gpu_lost(text):
        sys.stderr.write(f"{ERROR_PREFIX}{text}\n")  # the service explains it
        sys.stderr.flush()
        os._exit(70)


def _completion(active: _ActiveRequest, now: float) -> Completion:
    generation = active.sequence.to_generation(active.arm.vlm)
    first_token_seconds = active.first_token - active.started
    times = (first_token_seconds, now - active.started, now - active.first_token)
    arm, tokens = active.arm, generation.num_tokens
    return Completion(
        generation.text, tokens, arm.version, *times, arm.folder, active.warm, arm.calibration
    )
