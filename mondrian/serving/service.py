"""The running service: its parts, in the order in which they start and end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from math import inf, nan
from time import monotonic

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian import __version__
from mondrian.core.errors import MondrianError
from mondrian.rollout.store import RolloutStore
from mondrian.serving.engines.adapter_watcher import AdapterWatcher, find_adapters
from mondrian.serving.engines.base import Engine
from mondrian.serving.engines.ipc import WorkerConfig
from mondrian.serving.engines.local import LocalEngine
from mondrian.serving.engines.openai import RemoteEngine, RemoteServer
from mondrian.serving.http.client_identity import ClientKey
from mondrian.serving.http.request_parsing import clean_id
from mondrian.serving.http.uploads import UploadStore
from mondrian.serving.jobs.critique_runner import CritiqueRunner
from mondrian.serving.jobs.intake import JobIntake
from mondrian.serving.jobs.runner import JobRunner
from mondrian.serving.metrics import Metrics
from mondrian.serving.rollout_controller import RolloutController
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.engine import check_writable, format_database_error, open_engine
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy

STOPPING = "the service is stopping"
_FAULT_CHECK_INTERVAL = 1.0  # seconds
log = logging.getLogger("mondrian.service")


class ServiceUnavailableError(MondrianError):
    """The service is loading, broken or stopping."""


class Service:
    """What the routes need. Raises DataError or AdapterError if --db or --lora_path is unusable.

    fatal_error   why the service cannot continue
    request_exit  called then, to end the server; set by the command that runs it
    """

    def __init__(self, settings: ServiceSettings, engine: Engine | None = None) -> None:
        self.settings, self.params = settings, settings.params
        serve, image = self.params.serve, self.params.image
        lease_policy = LeasePolicy(serve.lease_seconds, serve.max_attempts)
        self.store = JobStore(open_engine(settings.db), lease_policy)
        self.engine: Engine = engine or _create_engine(settings)
        self.metrics = Metrics()
        pixel_limits = (image.min_pixels, image.max_pixels, serve.max_megapixels)
        self.uploads = UploadStore(settings.uploads_folder, *pixel_limits)
        self.uploads.check_writable()
        data = settings.uploads_folder
        self.client_key = ClientKey.load(data) if serve.identify_clients else None
        self.adapter_watcher: AdapterWatcher | None = None
        if settings.lora_path and isinstance(self.engine, LocalEngine):
            find_adapters(settings.lora_path)
            merge = serve.model_mode == "fine_tuned"
            self.adapter_watcher = AdapterWatcher(
                self.engine, settings.lora_path, self.params, merge
            )
        self.rollout_store = RolloutStore(self.store.engine)
        self.rollout_controller: RolloutController | None = None
        if settings.rollout:
            self.rollout_controller = RolloutController(
                self.rollout_store,
                settings.rollout,
                tuple(self.params.advisors),
                self.engine.state.adapters,
                self.adapter_watcher.load_adapter if self.adapter_watcher else None,
            )
        critique_runner = CritiqueRunner(self.engine, self.params)
        self.job_runner = JobRunner(
            critique_runner, self.store, self.uploads, self.metrics, self.rollout_controller
        )
        self.intake = JobIntake(self.job_runner)
        self.admission = self.job_runner.admission
        self.fatal_error = ""
        self.request_exit: Callable[[], None] = lambda: None
        self._drain_deadline = 0.0
        self._fault_check = asyncio.Lock()
        self._last_fault_check = -inf
        self._storage_faults: dict[str, str] = {}
        self._add_gauges()

    @property
    def ready(self) -> bool:
        return self.job_runner.ready

    @property
    def draining(self) -> bool:
        return self.job_runner.draining

    @property
    def drain_seconds_left(self) -> float:
        """Seconds in which running critiques may still finish, once the service drains."""
        return max(0.0, self._drain_deadline - monotonic())

    async def find_faults(self) -> dict[str, str]:
        """Return why each of model, database and uploads is not ready; empty texts if they are.

        Database and uploads are checked at most once a second.
        """
        async with self._fault_check:
            if monotonic() - self._last_fault_check >= _FAULT_CHECK_INTERVAL:
                self._storage_faults = {
                    "database": await self._find_database_fault(),
                    "uploads": await self.job_runner.call_upload_store(self.uploads.find_fault),
                }
                self._last_fault_check = monotonic()
        state = self.engine.state
        fault = STOPPING if self.draining else state.message or "loading adapters"
        return {"model": "" if self.ready else fault} | self._storage_faults

    async def _find_database_fault(self) -> str:
        try:
            await self.job_runner.write_store(check_writable, self.store.engine)
        except SQLAlchemyError as error:
            return format_database_error(error)
        return ""

    async def render_metrics(self) -> bytes:
        """Return the metrics for Prometheus."""
        try:
            queued: float = await self.job_runner.call_store(self.store.count_queued)
        except SQLAlchemyError:
            queued = nan
        self.metrics.queued_jobs.set(queued)
        base, base_hash = self.engine.state.model, self.engine.state.base_hash
        self.metrics.build.info({"version": __version__, "base": base, "base_sha256": base_hash})
        return await self.job_runner.call_store(self.metrics.text)

    def drain(self) -> None:
        if not self.draining:
            self._drain_deadline = monotonic() + self.params.serve.drain_seconds
            self.job_runner.draining = True
            log.info("draining: no new work, %d in progress", self.admission.busy)

    def admit(self, direct: bool = False) -> None:
        """Raise ServiceUnavailableError or QueueFullError if a request cannot be taken now.

        direct  the client waits for its critique, so there must be a model, or one that restarts
        """
        if self.draining:
            raise ServiceUnavailableError(STOPPING)
        if not direct:
            return
        state = self.engine.state
        if state.status == "error":
            raise ServiceUnavailableError(f"Service not initialized: {state.message}")
        if not state.adapters_scanned or (state.status != "ready" and not state.restarts):
            raise ServiceUnavailableError("Service not initialized")
        self.admission.check_capacity()

    async def get_job(self, id: str, not_found: str = "Job not found") -> JobRow:
        """Return the job with a client's id. Raises HTTPException 404 with the text `not_found`."""
        job = await self.job_runner.call_store(self.store.get, clean_id(id))
        if job is None:
            raise HTTPException(404, not_found)
        return job

    async def restart_job(self, id: str) -> bool:
        """Queue a finished or pending job again; return False if it is neither.

        Raises QueueFullError if too many jobs are queued.
        """
        self.admit()
        await self.intake.check_queue()
        is_restarted = await self.job_runner.write_store(self.store.restart, id)
        self.job_runner.notify_queued()
        return is_restarted

    @asynccontextmanager
    async def lifespan_context(self) -> AsyncIterator[None]:
        """Run the service's background tasks, and drain them at the end."""
        for warning in self.settings.warnings:
            log.warning("%s", warning)
        for change in self.store.migrations:
            log.info("database: added %s", change)
        await self.engine.start()
        loops = (
            self._run_adapters,
            self.job_runner.run,
            self.job_runner.run_heartbeat,
            self._watch_engine,
        )
        tasks = [asyncio.create_task(loop()) for loop in loops]
        for task in tasks:
            task.add_done_callback(self._handle_task_end)
        try:
            yield
        finally:
            self.drain()
            await self.job_runner.drain(self.drain_seconds_left)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await self.engine.stop()
            self.store.close()
            log.info("stopped")

    async def _run_adapters(self) -> None:
        state = self.engine.state
        if self.adapter_watcher:
            await self.adapter_watcher.scan()
            faults = [a.fault for a in state.adapters.values() if a.fault] or [
                self.adapter_watcher.fault
            ]
            if self.adapter_watcher.merge and faults[0]:
                self._end_service(f"model_mode fine_tuned: {faults[0]}")
        if self.rollout_controller:
            await self.rollout_controller.refresh_safely()
        state.adapters_scanned = True
        await asyncio.gather(
            *(part.run() for part in (self.adapter_watcher, self.rollout_controller) if part)
        )

    async def _watch_engine(self) -> None:
        """End the service in fine_tuned mode if the model can never be loaded."""
        while self.engine.state.status != "error":
            await asyncio.sleep(0.2)
        if self.params.serve.model_mode == "fine_tuned":
            self._end_service(self.engine.state.message)

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        """End the service after a bug in a background task, so that it is started again."""
        if not task.cancelled() and task.exception():
            log.error("a background task failed", exc_info=task.exception())
            self._end_service(f"internal error: {task.exception()!r}; the log has more")

    def _end_service(self, reason: str) -> None:
        self.fatal_error = self.fatal_error or reason
        self.request_exit()

    def _add_gauges(self) -> None:
        state, add = self.engine.state, self.metrics.add_gauge
        adapters = state.adapters

        def count_faults() -> int:
            folder_fault = self.adapter_watcher.fault if self.adapter_watcher else ""
            return sum(bool(adapter.fault) for adapter in adapters.values()) + bool(folder_fault)

        add("ready", "1 if a request would be answered.", lambda: float(self.ready))
        add("waiting", "Requests that wait for a slot.", lambda: self.admission.waiting)
        add("busy", "Critiques in progress.", lambda: self.admission.busy)
        add("model_restarts", "Restarts of the model process.", lambda: state.restarts)
        add("model_bytes", "Memory of the model process.", lambda: state.memory_bytes)
        add("adapters", "Loaded adapters.", lambda: sum(a.serves for a in adapters.values()))
        add("adapter_faults", "Rejected adapters.", count_faults)


def _create_engine(settings: ServiceSettings) -> Engine:
    base, image, serve = settings.params.base, settings.params.image, settings.params.serve
    options = (serve.batch_size, serve.max_new_tokens, serve.constrained)
    if settings.engine_url:
        models = dict(settings.engine_models)
        server = RemoteServer(settings.engine_url, models, settings.engine_key)
        return RemoteEngine(server, *options)
    pixel_limits, machine = (image.min_pixels, image.max_pixels), settings.params.machine
    config = WorkerConfig(base.source, pixel_limits, *options, machine.cache_limit_gb)
    return LocalEngine(config)


def get_service(request: Request) -> Service:
    return request.app.state.service
