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

from mondrian.core.errors import MondrianError
from mondrian.model.batch_generator import Decoder, Row
from mondrian.model.constrained import Form
from mondrian.serving.engines.ipc import Ask, Done, Failed, Grown
from mondrian.serving.worker.adapters import Arm, Arms

_TELL = 0.5  # seconds between two counts of a row that nobody reads along


class _Live:
    """A critique under way."""

    def __init__(self, ask: Ask, arm: Arm, row: Row, warm: bool, since: float) -> None:
        self.ask, self.arm, self.row, self.warm, self.since = ask, arm, row, warm, since
        self.deadline = since + ask.seconds
        self.first = 0.0
        self.told = 0
        self.told_at = since
        self._text = getincrementaldecoder("utf-8")("replace")

    def more(self, form: Form, ends: frozenset[int]) -> str:
        """The text since it was last asked for."""
        new = [token for token in self.row.told[self.told :] if token not in ends]
        self.told = len(self.row.told)
        return self._text.decode(b"".join(form.text(token) for token in new))


class Lane:
    """The thread that alone touches MLX once all is loaded.

    tell  sends a message to the service
    form  knows the bytes of each token
    most  rows at a time
    """

    def __init__(self, tell: Callable[[Any], None], arms: Arms, form: Form, most: int) -> None:
        self.tell, self.arms, self.form, self.most = tell, arms, form, most
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.stepped, self._busy = monotonic(), False
        self._live: dict[Row, _Live] = {}
        self._waiting: deque[Ask] = deque()
        self._decoders: dict[int, Decoder] = {}

    def start(self) -> None:
        """Begin; it never ends: MLX aborts where a thread ends while the process does."""
        Thread(target=self._run, name="lane", daemon=True).start()

    @property
    def stalled(self) -> float:
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

    def ask(self, ask: Ask) -> None:
        """Begin a critique, or let it wait for a place; called in this lane."""
        self._waiting.append(ask)

    def _admit(self) -> None:
        while self._waiting and len(self._live) < self.most:
            self._begin(self._waiting.popleft())

    def _begin(self, ask: Ask) -> None:
        since = self.stepped = monotonic()
        arms = self.arms
        arm = arms.at.get(ask.arm)
        if arm is None:
            self._fail(ask.id, "adapter", f"the adapter of {ask.arm} was taken away")
            return
        try:
            row, prefix, warm = arms.begin(arm, ask)
            if arm.group not in self._decoders:
                self._decoders[arm.group] = arms.decoder(arm, self.most)
            self._decoders[arm.group].admit(row, prefix)
        except (MondrianError, RuntimeError, MemoryError) as error:
            self._fail(ask.id, "model", _line(error))
            return
        self._live[row] = _Live(ask, arm, row, warm, since)

    def stop(self, id: int) -> None:
        """Nobody waits for it: its place is free."""
        self._waiting = deque(ask for ask in self._waiting if ask.id != id)
        for row, live in list(self._live.items()):
            if live.ask.id == id:
                self._drop(row)

    def _step(self, group: int) -> None:
        decoder = self._decoders[group]
        try:
            ended = decoder.step() if decoder.live else []
        except (RuntimeError, MemoryError) as error:
            for row in decoder.live:
                self._fail(self._ended(row).ask.id, "model", _line(error))
            del self._decoders[group]
            return
        now = monotonic()
        for row in decoder.live + ended:
            self._live[row].first = self._live[row].first or now
        self._tell_growth(decoder.live + ended, now)
        for row in ended:
            self._tell_done(self._ended(row), now)
        for row in decoder.live:
            if now > self._live[row].deadline:
                live = self._live[row]
                told = f"not done after {live.ask.seconds:g} s, at {len(row.told)} tokens"
                self._drop(row)
                self._fail(live.ask.id, "time", told)
        if not decoder.live:
            self._decoders.pop(group, None)

    def _ended(self, row: Row) -> _Live:
        """Forget a row, and with the last one of an arm that was replaced, the arm."""
        live = self._live.pop(row)
        self.tidy()
        return live

    def tidy(self) -> None:
        """Let arms go that neither serve nor have a row."""
        self.arms.tidy({live.arm for live in self._live.values()})

    def _tell_growth(self, rows: list[Row], now: float) -> None:
        grown = []
        for row in rows:
            live = self._live[row]
            if live.ask.stream:
                text = live.more(self.form, live.arm.vlm.end_ids)
                grown.append((live.ask.id, text, len(row.told)))
            elif now - live.told_at > _TELL:
                grown.append((live.ask.id, "", len(row.told)))
                live.told_at = now
        if grown:
            self.tell(Grown(grown))

    def _tell_done(self, live: _Live, now: float) -> None:
        answer = live.row.answer(live.arm.vlm)
        self.tell(Done(
            live.ask.id, answer.text, answer.tokens,
            live.arm.version, live.first - live.since, now - live.since, now - live.first,
            live.warm, live.arm.folder,
        ))  # fmt: skip

    def _drop(self, row: Row) -> None:
        live = self._ended(row)
        decoder = self._decoders[live.arm.group]
        decoder.drop(row)
        if not decoder.live:
            del self._decoders[live.arm.group]

    def _fail(self, id: int, kind: str, reason: str) -> None:
        self.tell(Failed(id, kind, reason))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
