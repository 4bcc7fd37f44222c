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
    Completion,
    CritiqueRequest,
    EngineFault,
    EngineState,
    ModelDied,
    NoAdapter,
    TimedOut,
)
from mondrian.serving.engines.ipc import (
    BASE_ARM,
    AdapterLoadResult,
    CancelRequest,
    FatalError,
    GenerateRequest,
    GenerationFailure,
    GenerationResult,
    Heartbeat,
    LoadAdapterRequest,
    LoadProgress,
    ModelReady,
    TokensGenerated,
    UnloadAdapterRequest,
    WorkerConfig,
)
from mondrian.serving.engines.model_process import WORKER_COMMAND, ModelProcess

_MAX_LOAD_CRASHES = 2  # of model processes that an adapter may cause
_STALL_TIMEOUT = 120.0  # seconds that a lane with work may make no step
_FAULTS = {"adapter": NoAdapter, "time": TimedOut, "model": EngineFault}
_RESTART_DELAYS = (
    0.1,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    15.0,
)  # seconds before the next of failed starts
log = logging.getLogger("mondrian.model")


@dataclass
class _Pending:
    """Somebody waits for it."""

    answer: asyncio.Future[Completion]
    request: CritiqueRequest


class LocalEngine:
    """One model process at a time.

    command  starts it, with the number of its end of the pipe behind
    """

    def __init__(self, setup: WorkerConfig, command: tuple[str, ...] = WORKER_COMMAND) -> None:
        self.state = EngineState(model=setup.base, rows=setup.rows)
        self.setup, self.command = setup, command
        self.adapter_requests: dict[
            str, LoadAdapterRequest
        ] = {}  # adapters, to be loaded again after a death
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
        self._process = ModelProcess(self.command, self._handle_message, self._handle_exit)
        self._send(self.setup)
        self._unsettled = set(self.adapter_requests)
        for adopt in self.adapter_requests.values():
            self._send(adopt)

    def _send(self, message: Any) -> None:
        if isinstance(message, LoadAdapterRequest):
            self._sent.append(message.name)
        if self._process:
            self._process.send(message)

    async def _watch_silence(self) -> None:
        """End a process that says nothing at all any more."""
        while True:
            await asyncio.sleep(1)
            if self._process and self._process.silent_seconds > _STALL_TIMEOUT:
                log.error("silent for %.0f s: ending the model process", _STALL_TIMEOUT)
                self._process.kill()

    def _handle_message(self, message: Any) -> None:
        state = self.state
        if isinstance(message, GenerationResult):
            self._answer(message)
        elif isinstance(message, TokensGenerated):
            for id, text, tokens in message.rows:
                pending = self._pending.get(id)
                if pending and pending.request.on_text:
                    pending.request.on_text(text, tokens)
        elif isinstance(message, GenerationFailure):
            fault = _FAULTS[message.kind](message.reason)
            self._fail_pending(message.id, fault)
        elif isinstance(message, Heartbeat):
            state.memory = message.memory
            if message.stalled_seconds > _STALL_TIMEOUT and self._process:
                log.error("no step for %.0f s: ending the model process", message.stalled_seconds)
                self._process.kill()
        elif isinstance(message, AdapterLoadResult):
            self._handle_load_result(message)
        elif isinstance(message, LoadProgress):
            state.message, state.progress = message.message, message.progress
        elif isinstance(message, ModelReady):
            state.status, state.message, state.progress = "ready", "", 100
            state.device, state.using_gpu, state.rows = (
                message.device,
                message.using_gpu,
                message.rows,
            )
            log.info("model ready: %s on %s, %d at a time", state.model, state.device, state.rows)
            self._check_settled()
        elif isinstance(message, FatalError):
            state.status, state.message = "error", message.reason
            log.error("model broken: %s", message.reason)
            self._check_settled()

    def _pop_future(self, id: int) -> asyncio.Future[Completion] | None:
        """Who waits for a critique that is ended, where anybody still does."""
        pending = self._pending.pop(id, None)
        return pending.answer if pending and not pending.answer.done() else None

    def _answer(self, done: GenerationResult) -> None:
        if answer := self._pop_future(done.id):
            answer.set_result(
                Completion(
                    done.text,
                    done.tokens,
                    done.version,
                    done.first_seconds,
                    done.seconds,
                    done.decode_seconds,
                    done.warm,
                    done.folder,
                )
            )

    def _fail_pending(self, id: int, fault: EngineFault) -> None:
        if answer := self._pop_future(id):
            answer.set_exception(fault)

    def _handle_exit(self, process: ModelProcess) -> None:
        """All that it was at work on is asked again by who asked; a new one is started."""
        self._process, code = None, process.close_and_wait()
        for id in list(self._pending):
            self._fail_pending(id, ModelDied(f"the model process ended (status {code})"))
        for future in self._adopting.values():
            if not future.done():
                future.set_exception(ModelDied("the model process ended"))
        self._adopting.clear()
        if self._stopping or self.state.status == "error":
            return
        self.state.restarts += 1
        adapters = self.state.adapters
        for name in [name for name in adapters if name in self.adapter_requests]:
            del adapters[name]
        self._settled.clear()
        self._reject_crashing_adapter()
        self.state.status, self.state.message, self.state.progress = "loading", "restarting", 0
        wait = _RESTART_DELAYS[min(self._failed, len(_RESTART_DELAYS) - 1)]
        self._failed += 1
        log.error("model process ended (status %s); another in %.1f s", code, wait)
        self._loop.call_later(wait, lambda: None if self._stopping else self._spawn())

    def _reject_crashing_adapter(self) -> None:
        """Give up an adapter under whose load processes died."""
        if not self._sent:
            return
        name = self._sent[0]
        self._deaths[name] += 1
        if self._deaths[name] < _MAX_LOAD_CRASHES:
            return
        given_up = self.adapter_requests.pop(name, None)
        fault = "the model process ends while it loads it"
        log.error("adapter of %s refused: %s", name, fault)
        folder = given_up.folder if given_up else ""
        self.state.adapters[name] = Adapter(name, folder, "", fault=fault)

    async def critique(self, question: CritiqueRequest) -> Completion:
        try:
            async with asyncio.timeout(question.timeout_seconds):
                await self._settled.wait()
        except TimeoutError:
            raise TimedOut(f"no model within {question.timeout_seconds:g} s") from None
        if self.state.status == "error":
            raise EngineFault(self.state.message)
        arm = question.adapter or BASE_ARM
        if arm and not self.state.adapters.get(arm, Adapter(arm, "", "")).serves:
            raise NoAdapter(f"no adapter serves for {arm}")
        id, picture = next(self._numbers), question.picture
        pending = _Pending(self._loop.create_future(), question)
        self._pending[id] = pending
        self._send(
            GenerateRequest(
                id,
                arm,
                question.messages,
                picture.size,
                picture.tobytes(),
                question.timeout_seconds,
                question.stream,
            )
        )
        try:
            return await pending.answer
        except asyncio.CancelledError:
            self._pending.pop(id, None)
            self._send(CancelRequest(id))
            raise

    async def load_or_replace_adapter(self, request: LoadAdapterRequest) -> Adapter:
        """Load or replace an adapter; what serves after it, with its fault if it was refused.

        Raises ModelDied where the process ends meanwhile; it is loaded by the next one then.
        """
        self.adapter_requests[request.name] = request
        self._deaths.pop(request.name, None)
        future: asyncio.Future[Adapter] = self._loop.create_future()
        self._adopting[request.name] = future
        self._send(request)
        return await future

    def unload_adapter(self, name: str) -> None:
        """Let an adapter go."""
        self.adapter_requests.pop(name, None)
        self.state.adapters.pop(name, None)
        self._unsettled.discard(name)
        self._check_settled()
        self._send(UnloadAdapterRequest(name))

    def _handle_load_result(self, message: AdapterLoadResult) -> None:
        if message.name in self._sent:
            self._sent.remove(message.name)
        if message.name not in self.adapter_requests:
            return  # taken away meanwhile
        before = self.state.adapters.get(message.name)
        if not message.fault:
            now = Adapter(
                message.name, message.folder, message.version, message.merged, message.bytes
            )
            log.info(
                "adapter of %s serves: %s, version %s",
                message.name,
                message.folder,
                message.version,
            )
        elif before:
            now = replace(before, fault=message.fault)
        else:
            now = Adapter(message.name, message.folder, "", fault=message.fault)
        if message.fault:
            log.error("adapter of %s refused: %s", message.name, message.fault)
        self.state.adapters[message.name] = now
        self._unsettled.discard(message.name)
        self._check_settled()
        future = self._adopting.pop(message.name, None)
        if future and not future.done():
            future.set_result(now)

    async def stop(self) -> None:
        self._stopping = True
        self._listen_on.cancel()
        if self._process:
            await self._process.stop()
