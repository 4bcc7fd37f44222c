"""The lane of the model process: rows of every arm, those that can in one step together."""

from __future__ import annotations

import os
import traceback
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

import mlx.core as mx

from mondrian.core.errors import MondrianError, one_line
from mondrian.model.batch_generator import BatchGenerator, SequenceState
from mondrian.model.constrained import CritiqueGrammar
from mondrian.serving.engines.ipc import (
    GenerateRequest,
    GenerationFailure,
    GenerationResult,
    TokensGenerated,
)
from mondrian.serving.worker.adapters import AdapterRegistry, Arm

_PROGRESS_INTERVAL = 0.5  # seconds between two counts of a row that nobody reads along


class _ActiveRequest:
    """A critique under way."""

    def __init__(
        self, ask: GenerateRequest, arm: Arm, row: SequenceState, warm: bool, since: float
    ) -> None:
        self.ask, self.arm, self.row, self.warm, self.since = ask, arm, row, warm, since
        self.deadline = since + ask.max_seconds
        self.first = 0.0
        self.streamed_len = 0
        self.told_at = since
        self._text = getincrementaldecoder("utf-8")("replace")

    def take_new_text(self, form: CritiqueGrammar, ends: frozenset[int]) -> str:
        """The text since it was last asked for."""
        new = [token for token in self.row.output_ids[self.streamed_len :] if token not in ends]
        self.streamed_len = len(self.row.output_ids)
        return self._text.decode(b"".join(form.text(token) for token in new))


class Batcher:
    """The thread that alone touches MLX once all is loaded.

    tell  sends a message to the service
    form  knows the bytes of each token
    max_rows  rows at a time
    """

    def __init__(
        self,
        tell: Callable[[Any], None],
        arms: AdapterRegistry,
        form: CritiqueGrammar,
        max_rows: int,
    ) -> None:
        self.tell, self.arms, self.form, self.max_rows = tell, arms, form, max_rows
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.stepped, self._busy = monotonic(), False
        self._live: dict[SequenceState, _ActiveRequest] = {}
        self._waiting: deque[GenerateRequest] = deque()
        self._decoders: dict[int, BatchGenerator] = {}

    def start(self) -> None:
        """Begin; it never ends: MLX aborts where a thread ends while the process does."""
        Thread(target=self._run, name="lane", daemon=True).start()

    @property
    def seconds_since_step(self) -> float:
        """Seconds since the last step; 0 where there is nothing to do."""
        return monotonic() - self.stepped if self._live or self._busy else 0.0

    def _run(self) -> None:
        try:
            mx.set_default_stream(mx.new_stream(mx.default_device()))
            while True:
                while not self._live or not self.inbox.empty():
                    self._busy = False
                    work = self.inbox.get()
                    self._busy, self.stepped = True, monotonic()
                    work()
                    self._admit()
                for group in list(self._decoders):
                    self._step(group)
                self._admit()
                self.stepped, self._busy = monotonic(), False
        except (
            BaseException
        ):  # a fault of this project: better a new process than a lane that hangs
            traceback.print_exc()
            os._exit(70)

    def enqueue(self, ask: GenerateRequest) -> None:
        """Begin a critique, or let it wait for a place; called in this lane."""
        self._waiting.append(ask)

    def _admit(self) -> None:
        while self._waiting and len(self._live) < self.max_rows:
            self._begin(self._waiting.popleft())

    def _begin(self, ask: GenerateRequest) -> None:
        since = self.stepped = monotonic()
        arms = self.arms
        arm = arms.arm_by_name.get(ask.arm)
        if arm is None:
            self._fail(ask.id, "adapter", f"the adapter of {ask.arm} was taken away")
            return
        try:
            row, prefix, warm = arms.start_sequence(arm, ask)
            if arm.group not in self._decoders:
                self._decoders[arm.group] = arms.decoder(arm, self.max_rows)
            self._decoders[arm.group].insert(row, prefix)
        except (MondrianError, RuntimeError, MemoryError) as error:
            self._fail(ask.id, "model", _line(error))
            return
        self._live[row] = _ActiveRequest(ask, arm, row, warm, since)

    def cancel(self, id: int) -> None:
        """Nobody waits for it: its place is free."""
        self._waiting = deque(ask for ask in self._waiting if ask.id != id)
        for row, live in list(self._live.items()):
            if live.ask.id == id:
                self._drop(row)

    def _step(self, group: int) -> None:
        decoder = self._decoders[group]
        try:
            ended = decoder.step() if decoder.active_sequences else []
        except (RuntimeError, MemoryError) as error:
            for row in decoder.active_sequences:
                self._fail(self._finish_row(row).ask.id, "model", _line(error))
            del self._decoders[group]
            return
        now = monotonic()
        for row in decoder.active_sequences + ended:
            self._live[row].first = self._live[row].first or now
        self._send_progress(decoder.active_sequences + ended, now)
        for row in ended:
            self._send_result(self._finish_row(row), now)
        for row in decoder.active_sequences:
            if now > self._live[row].deadline:
                live = self._live[row]
                message = (
                    f"not done after {live.ask.max_seconds:g} s, at {len(row.output_ids)} tokens"
                )
                self._drop(row)
                self._fail(live.ask.id, "time", message)
        if not decoder.active_sequences:
            self._decoders.pop(group, None)

    def _finish_row(self, row: SequenceState) -> _ActiveRequest:
        """Forget a row, and with the last one of an arm that was replaced, the arm."""
        live = self._live.pop(row)
        self.prune_arms()
        return live

    def prune_arms(self) -> None:
        """Let arms go that neither serve nor have a row."""
        self.arms.prune({live.arm for live in self._live.values()})

    def _send_progress(self, rows: list[SequenceState], now: float) -> None:
        deltas = []
        for row in rows:
            live = self._live[row]
            if live.ask.stream:
                text = live.take_new_text(self.form, live.arm.vlm.end_ids)
                deltas.append((live.ask.id, text, len(row.output_ids)))
            elif now - live.told_at > _PROGRESS_INTERVAL:
                deltas.append((live.ask.id, "", len(row.output_ids)))
                live.told_at = now
        if deltas:
            self.tell(TokensGenerated(deltas))

    def _send_result(self, live: _ActiveRequest, now: float) -> None:
        answer = live.row.to_generation(live.arm.vlm)
        self.tell(
            GenerationResult(
                live.ask.id,
                answer.text,
                answer.num_tokens,
                live.arm.version,
                live.first - live.since,
                now - live.since,
                now - live.first,
                live.warm,
                live.arm.folder,
            )
        )

    def _drop(self, row: SequenceState) -> None:
        live = self._finish_row(row)
        decoder = self._decoders[live.arm.group]
        decoder.remove(row)
        if not decoder.active_sequences:
            del self._decoders[live.arm.group]

    def _fail(self, id: int, kind: str, reason: str) -> None:
        self.tell(GenerationFailure(id, kind, reason))


def _line(error: BaseException) -> str:
    return one_line(error)
