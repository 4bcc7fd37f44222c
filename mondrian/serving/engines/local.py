"""The supervisor of the model process: asks it, and starts another where it dies."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from mondrian.serving.engines.base import (
    Adapter,
    EngineFault,
    ModelDied,
    NoAdapter,
    Question,
    State,
    TimedOut,
    Told,
)
from mondrian.serving.engines.ipc import (
    BASE,
    Adopt,
    Adopted,
    Ask,
    Broken,
    Done,
    Drop,
    Failed,
    Grown,
    Loading,
    Pulse,
    Ready,
    Setup,
    Stop,
)
from mondrian.serving.engines.model_process import COMMAND, ModelProcess

_DEATHS = 2  # of model processes that an adapter may cause
_PATIENCE = 120.0  # seconds that a lane with work may make no step
_FAULTS = {"adapter": NoAdapter, "time": TimedOut, "model": EngineFault}
_WAITS = (0.1, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)  # seconds before the next of failed starts
log = logging.getLogger("mondrian.model")


@dataclass
class _Pending:
    """Somebody waits for it."""

    answer: asyncio.Future[Told]
    question: Question


class LocalEngine:
    """One model process at a time.

    command  starts it, with the number of its end of the pipe behind
    """

    def __init__(self, setup: Setup, command: tuple[str, ...] = COMMAND) -> None:
        self.state = State(model=setup.base, rows=setup.rows)
        self.setup, self.command = setup, command
        self.wanted: dict[str, Adopt] = {}  # adapters, to be loaded again after a death
        self._process: ModelProcess | None = None  # none between a death and the next start
        self._pending: dict[int, _Pending] = {}
        self._numbers = count(1)
        self._failed = 0  # starts since it was ready last
        self._stopping = False
        self._adopting: dict[str, asyncio.Future[Adapter]] = {}
        self._unsettled: set[str] = set()  # adapters that a new process has not spoken of yet
        self._settled = asyncio.Event()
        self._sent: deque[str] = deque()  # adapters that it was told to load, not answered yet
        self._deaths: Counter[str] = Counter()  # of processes, under the load of an adapter

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawn()
        self._listen_on = asyncio.create_task(self._watch_silence())

    def _check_settled(self) -> None:
        """Let those go on who wait for base and adapters, or for the news that there are none."""
        if self.state.status == "error" or (self.state.status == "ready" and not self._unsettled):
            self._failed = 0
            self._settled.set()

    def _spawn(self) -> None:
        self._sent.clear()
        self._process = ModelProcess(self.command, self._hear, self._died)
        self._send(self.setup)
        self._unsettled = set(self.wanted)
        for adopt in self.wanted.values():
            self._send(adopt)

    def _send(self, message: Any) -> None:
        if isinstance(message, Adopt):
            self._sent.append(message.name)
        if self._process:
            self._process.send(message)

    async def _watch_silence(self) -> None:
        """End a process that says nothing at all any more."""
        while True:
            await asyncio.sleep(1)
            if self._process and self._process.silent > _PATIENCE:
                log.error("silent for %.0f s: ending the model process", _PATIENCE)
                self._process.kill()

    def _hear(self, message: Any) -> None:
        state = self.state
        if isinstance(message, Done):
            self._answer(message)
        elif isinstance(message, Grown):
            for id, text, tokens in message.rows:
                pending = self._pending.get(id)
                if pending and pending.question.grow:
                    pending.question.grow(text, tokens)
        elif isinstance(message, Failed):
            fault = _FAULTS[message.kind](message.reason)
            self._settle(message.id, fault)
        elif isinstance(message, Pulse):
            state.memory = message.memory
            if message.stalled > _PATIENCE and self._process:
                log.error("no step for %.0f s: ending the model process", message.stalled)
                self._process.kill()
        elif isinstance(message, Adopted):
            self._adopted(message)
        elif isinstance(message, Loading):
            state.message, state.progress = message.message, message.progress
        elif isinstance(message, Ready):
            state.status, state.message, state.progress = "ready", "", 100
            state.device, state.using_gpu, state.rows = (
                message.device, message.using_gpu, message.rows,
            )  # fmt: skip
            log.info("model ready: %s on %s, %d at a time", state.model, state.device, state.rows)
            self._check_settled()
        elif isinstance(message, Broken):
            state.status, state.message = "error", message.reason
            log.error("model broken: %s", message.reason)
            self._check_settled()

    def _waiting(self, id: int) -> asyncio.Future[Told] | None:
        """Who waits for a critique that is ended, where anybody still does."""
        pending = self._pending.pop(id, None)
        return pending.answer if pending and not pending.answer.done() else None

    def _answer(self, done: Done) -> None:
        if answer := self._waiting(done.id):
            answer.set_result(Told(
                done.text, done.tokens, done.version, done.first_seconds, done.seconds,
                done.decode, done.warm, done.folder,
            ))  # fmt: skip

    def _settle(self, id: int, fault: EngineFault) -> None:
        if answer := self._waiting(id):
            answer.set_exception(fault)

    def _died(self, process: ModelProcess) -> None:
        """All that it was at work on is asked again by who asked; a new one is started."""
        self._process, code = None, process.ended()
        for id in list(self._pending):
            self._settle(id, ModelDied(f"the model process ended (status {code})"))
        for future in self._adopting.values():
            if not future.done():
                future.set_exception(ModelDied("the model process ended"))
        self._adopting.clear()
        if self._stopping or self.state.status == "error":
            return
        self.state.restarts += 1
        adapters = self.state.adapters
        for name in [name for name in adapters if name in self.wanted]:
            del adapters[name]
        self._settled.clear()
        self._blame()
        self.state.status, self.state.message, self.state.progress = "loading", "restarting", 0
        wait = _WAITS[min(self._failed, len(_WAITS) - 1)]
        self._failed += 1
        log.error("model process ended (status %s); another in %.1f s", code, wait)
        self._loop.call_later(wait, lambda: None if self._stopping else self._spawn())

    def _blame(self) -> None:
        """Give up an adapter under whose load processes died."""
        if not self._sent:
            return
        name = self._sent[0]
        self._deaths[name] += 1
        if self._deaths[name] < _DEATHS:
            return
        given_up = self.wanted.pop(name, None)
        fault = "the model process ends while it loads it"
        log.error("adapter of %s refused: %s", name, fault)
        folder = given_up.folder if given_up else ""
        self.state.adapters[name] = Adapter(name, folder, "", fault=fault)

    async def critique(self, question: Question) -> Told:
        try:
            async with asyncio.timeout(question.seconds):
                await self._settled.wait()
        except TimeoutError:
            raise TimedOut(f"no model within {question.seconds:g} s") from None
        if self.state.status == "error":
            raise EngineFault(self.state.message)
        arm = question.adapter or BASE
        if arm and not self.state.adapters.get(arm, Adapter(arm, "", "")).serves:
            raise NoAdapter(f"no adapter serves for {arm}")
        id, picture = next(self._numbers), question.picture
        pending = _Pending(self._loop.create_future(), question)
        self._pending[id] = pending
        self._send(Ask(
            id, arm, question.messages, picture.size, picture.tobytes(), question.seconds,
            question.stream,
        ))  # fmt: skip
        try:
            return await pending.answer
        except asyncio.CancelledError:
            self._pending.pop(id, None)
            self._send(Stop(id))
            raise

    async def adopt(self, asked: Adopt) -> Adapter:
        """Load or replace an adapter; what serves after it, with its fault if it was refused.

        Raises ModelDied where the process ends meanwhile; it is loaded by the next one then.
        """
        self.wanted[asked.name] = asked
        self._deaths.pop(asked.name, None)
        future: asyncio.Future[Adapter] = self._loop.create_future()
        self._adopting[asked.name] = future
        self._send(asked)
        return await future

    def drop(self, name: str) -> None:
        """Let an adapter go."""
        self.wanted.pop(name, None)
        self.state.adapters.pop(name, None)
        self._unsettled.discard(name)
        self._check_settled()
        self._send(Drop(name))

    def _adopted(self, said: Adopted) -> None:
        if said.name in self._sent:
            self._sent.remove(said.name)
        if said.name not in self.wanted:
            return  # taken away meanwhile
        before = self.state.adapters.get(said.name)
        if not said.fault:
            now = Adapter(said.name, said.folder, said.version, said.merged, said.bytes)
            log.info("adapter of %s serves: %s, version %s", said.name, said.folder, said.version)
        elif before:
            now = replace(before, fault=said.fault)
        else:
            now = Adapter(said.name, said.folder, "", fault=said.fault)
        if said.fault:
            log.error("adapter of %s refused: %s", said.name, said.fault)
        self.state.adapters[said.name] = now
        self._unsettled.discard(said.name)
        self._check_settled()
        future = self._adopting.pop(said.name, None)
        if future and not future.done():
            future.set_result(now)

    async def stop(self) -> None:
        self._stopping = True
        self._listen_on.cancel()
        if self._process:
            await self._process.stop()
