"""The local engine: runs the model process, and starts another if it ends."""

import asyncio
import logging
import sys
from collections import Counter, deque
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any

from mondrian.serving.engines import ipc
from mondrian.serving.engines.base import (
    Adapter,
    Completion,
    CritiqueRequest,
    EngineFault,
    EngineState,
    ModelDied,
    NoAdapter,
    TextCallback,
    TimedOut,
)
from mondrian.serving.engines.model_process import ModelProcess

WORKER_COMMAND = (sys.executable, "-m", "mondrian.serving.worker")
_STALL_TIMEOUT = 120.0  # seconds without a step or a message
_MAX_LOAD_CRASHES = 2  # crashes of the model process while it loads an adapter
# Seconds before each restart, counted from the last start that succeeded.
_RESTART_DELAYS = (0.1, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
log = logging.getLogger("mondrian.model")


class LocalEngine:
    """Supervises one model process at a time."""

    def __init__(self, config: ipc.WorkerConfig, command: tuple[str, ...] = WORKER_COMMAND) -> None:
        self.state = EngineState(model=config.base, batch_size=config.batch_size)
        self.config, self.command = config, command
        self._process: ModelProcess | None = None  # None between a crash and the restart
        self._ids, self._failed_starts, self._stopping = count(1), 0, False
        self._pending: dict[int, tuple[asyncio.Future[Completion], TextCallback]] = {}
        self._adapter_requests: dict[str, ipc.LoadAdapterRequest] = {}  # resent after a restart
        self._load_futures: dict[str, asyncio.Future[Adapter]] = {}
        self._load_order: deque[str] = deque()  # adapters sent and not answered, oldest first
        self._load_crashes: Counter[str] = Counter()
        self._unloaded: set[str] = set()  # adapters that a new process has not answered yet
        self._settled = asyncio.Event()  # base and adapters are loaded, or never will be

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawn()
        self._watchdog = asyncio.create_task(self._kill_silent_process())

    def _check_settled(self) -> None:
        if self.state.status == "error" or (self.state.status == "ready" and not self._unloaded):
            self._failed_starts = 0
            self._settled.set()

    def _spawn(self) -> None:
        if self._stopping:
            return
        self._load_order.clear()
        self._process = ModelProcess(self.command, self._handle_message, self._handle_exit)
        self._send(self.config)
        self._unloaded = set(self._adapter_requests)
        for request in self._adapter_requests.values():
            self._send(request)

    def _send(self, message: Any) -> None:
        if isinstance(message, ipc.LoadAdapterRequest):
            self._load_order.append(message.name)
        if self._process:
            self._process.send(message)

    async def _kill_silent_process(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self._process:
                self._kill_if_stalled("message", monotonic() - self._process.last_message)

    def _kill_if_stalled(self, event: str, seconds: float) -> None:
        if self._process and seconds > _STALL_TIMEOUT:
            log.error("no %s for %.0f s: killing the model process", event, seconds)
            self._process.kill()

    def _handle_message(self, message: Any) -> None:
        state = self.state
        match message:
            case ipc.GenerationResult():
                self._resolve(message.id, message.result)
            case ipc.TokensGenerated():
                for id, text, tokens in message.progress:
                    if pending := self._pending.get(id):
                        _, on_text = pending
                        on_text(text, tokens)
            case ipc.Heartbeat():
                state.memory_bytes = message.memory_bytes
                self._kill_if_stalled("step", message.stalled_seconds)
            case Adapter():
                self._handle_load_result(message)
            case ipc.LoadProgress():
                state.message, state.progress = message.message, message.progress
            case ipc.ModelReady():
                state.status, state.message, state.progress = "ready", "", 100
                state.device, state.using_gpu = message.device, message.using_gpu
                state.batch_size, state.base_hash = message.batch_size, message.base_hash
                log.info(
                    "model ready: %s on %s, batch %d", state.model, state.device, state.batch_size
                )
                self._check_settled()
            case ipc.FatalError():
                state.status, state.message = "error", message.reason
                log.error("model cannot start: %s", message.reason)
                self._check_settled()

    def _resolve(self, id: int, result: Completion | EngineFault) -> None:
        """Give a result to the request that waits for it, if it still does."""
        future, _ = self._pending.pop(id, (None, None))
        if future is None or future.done():
            return
        if isinstance(result, EngineFault):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _handle_exit(self, process: ModelProcess) -> None:
        """Fail what was in progress, so that its caller can retry it, and schedule a restart."""
        self._process, cause = None, process.close_and_wait()
        fault = f"the model process ended ({cause})"
        for id in list(self._pending):
            self._resolve(id, ModelDied(fault))
        for future in self._load_futures.values():
            if not future.done():
                future.set_exception(ModelDied(fault))
        self._load_futures.clear()
        if self._stopping or self.state.status == "error":
            return
        self.state.restarts += 1
        for name in self._adapter_requests:
            self.state.adapters.pop(name, None)
        self._settled.clear()
        if self._load_order:
            self._count_load_crash(self._load_order[0])
        self.state.status, self.state.progress = "loading", 0
        self.state.message = f"restarting: {fault}"
        delay = _RESTART_DELAYS[min(self._failed_starts, len(_RESTART_DELAYS) - 1)]
        self._failed_starts += 1
        log.error("%s; restart in %.1f s", fault, delay)
        self._loop.call_later(delay, self._spawn)

    def _count_load_crash(self, name: str) -> None:
        self._load_crashes[name] += 1
        if self._load_crashes[name] >= _MAX_LOAD_CRASHES:
            request = self._adapter_requests.pop(name, None)
            fault = "the model process ends while it loads this adapter"
            log.error("adapter of %s rejected: %s", name, fault)
            folder = request.folder if request else ""
            self.state.adapters[name] = Adapter(name, folder, "", fault=fault)

    async def critique(self, request: CritiqueRequest) -> Completion:
        name, timeout = request.adapter, request.timeout_seconds
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            raise TimedOut(f"no model within {timeout:g} s") from None
        if self.state.status == "error":
            raise EngineFault(self.state.message)
        adapter = self.state.adapters.get(name)
        if name and not (adapter and adapter.serves):
            raise NoAdapter(f"no adapter serves for {name}")
        id, future = next(self._ids), self._loop.create_future()
        self._pending[id] = future, request.on_text
        size, pixels = request.image.size, request.image.tobytes()
        self._send(
            ipc.GenerateRequest(id, name, request.messages, size, pixels, timeout, request.stream)
        )
        try:
            return await future
        except asyncio.CancelledError:
            self._pending.pop(id, None)
            self._send(ipc.CancelRequest(id))
            raise

    async def load_or_replace_adapter(self, request: ipc.LoadAdapterRequest) -> Adapter:
        """Return the adapter that serves now, with a rejected one's fault. Raises ModelDied."""
        self._adapter_requests[request.name] = request
        self._load_crashes.pop(request.name, None)
        future: asyncio.Future[Adapter] = self._loop.create_future()
        self._load_futures[request.name] = future
        self._send(request)
        return await future

    def unload_adapter(self, name: str) -> None:
        self._adapter_requests.pop(name, None)
        self.state.adapters.pop(name, None)
        self._unloaded.discard(name)
        self._check_settled()
        self._send(ipc.UnloadAdapterRequest(name))

    def _handle_load_result(self, adapter: Adapter) -> None:
        name = adapter.name
        if name in self._load_order:
            self._load_order.remove(name)
        if name not in self._adapter_requests:
            return  # unloaded meanwhile
        if adapter.fault:
            log.error("adapter of %s rejected: %s", name, adapter.fault)
            if previous := self.state.adapters.get(name):
                adapter = replace(previous, fault=adapter.fault)
        else:
            scores = "scores calibrated" if adapter.calibrated else "scores as generated"
            log.info(
                "adapter of %s serves: %s, version %s, %s",
                *(name, adapter.folder, adapter.version, scores),
            )
        self.state.adapters[name] = adapter
        self._unloaded.discard(name)
        self._check_settled()
        future = self._load_futures.pop(name, None)
        if future and not future.done():
            future.set_result(adapter)

    async def stop(self) -> None:
        self._stopping = True
        self._watchdog.cancel()
        if self._process:
            await self._process.stop()
