"""The running service: its parts, in the order in which they start and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from mondrian.core.errors import MondrianError
from mondrian.rollout.store import RolloutStore
from mondrian.serving.engines.adapter_watcher import AdapterWatcher, find_adapters
from mondrian.serving.engines.base import Engine
from mondrian.serving.engines.ipc import WorkerConfig
from mondrian.serving.engines.local import LocalEngine
from mondrian.serving.engines.openai import RemoteEngine
from mondrian.serving.http.request_parsing import CritiqueForm, check_same_photo, clean_id
from mondrian.serving.http.uploads import Upload, UploadStore
from mondrian.serving.jobs.admission import QueueFullError
from mondrian.serving.jobs.critique_runner import CritiqueRunner
from mondrian.serving.jobs.runner import JobRunner
from mondrian.serving.metrics import Metrics
from mondrian.serving.rollout_controller import RolloutController
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy

log = logging.getLogger("mondrian.service")


class ServiceUnavailableError(MondrianError):
    """The service is loading, broken or stopping."""


class Service:
    """What the routes need. Raises DataError or AdapterError if --db or --lora_path is unusable.

    fatal  why the service cannot continue
    stop   called then, to end the server; set by the command that runs it
    """

    def __init__(self, settings: ServiceSettings, engine: Engine | None = None) -> None:
        self.settings, self.params = settings, settings.params
        serve, image = self.params.serve, self.params.image
        lease_policy = LeasePolicy(serve.lease_seconds, serve.max_attempts)
        self.store = JobStore(open_engine(settings.db), lease_policy)
        self.engine: Engine = engine or _create_engine(settings)
        self.metrics = Metrics()
        limits = (image.min_pixels, image.max_pixels, serve.max_megapixels)
        self.intake = UploadStore(settings.data, *limits)
        self.watch: AdapterWatcher | None = None
        if settings.lora_path and isinstance(self.engine, LocalEngine):
            find_adapters(settings.lora_path)
            merge = serve.model_mode == "fine_tuned"
            self.watch = AdapterWatcher(self.engine, settings.lora_path, self.params, merge)
        self.rollouts = RolloutStore(self.store.engine)
        self.steering: RolloutController | None = None
        if settings.rollout:
            self.steering = RolloutController(
                self.rollouts,
                settings.rollout,
                tuple(self.params.advisors),
                self.engine.state.adapters,
                self.watch.load_adapter if self.watch else None,
            )
        critic = CritiqueRunner(self.engine, self.params)
        self.work = JobRunner(critic, self.store, self.intake, self.metrics, self.steering)
        self.desk = self.work.admission
        self.fatal = ""
        self.stop: Callable[[], None] = lambda: None
        self._drain_deadline = 0.0
        self._add_gauges()

    @property
    def ready(self) -> bool:
        return self.work.ready

    @property
    def draining(self) -> bool:
        return self.work.draining

    def drain(self) -> None:
        if not self.draining:
            self._drain_deadline = monotonic() + self.params.serve.drain_seconds
            self.work.draining = True
            log.info("draining: no new work, %d in progress", self.desk.busy)

    def admit(self, direct: bool = False) -> None:
        """Raise ServiceUnavailableError or QueueFullError if a request cannot be taken now.

        direct  the client waits for its critique, so there must be a model, or one that restarts
        """
        if self.draining:
            raise ServiceUnavailableError("the service is stopping")
        if not direct:
            return
        state = self.engine.state
        if state.status == "error":
            raise ServiceUnavailableError(f"Service not initialized: {state.message}")
        if not state.adapters_scanned or (state.status != "ready" and not state.restarts):
            raise ServiceUnavailableError("Service not initialized")
        self.desk.check_capacity()

    async def get_job(self, id: str, absent: str = "Job not found") -> JobRow:
        """Return the job with a client's id. Raises HTTPException 404 with the text `absent`."""
        job = await self.work.call_store(self.store.get, clean_id(id))
        if job is None:
            raise HTTPException(404, absent)
        return job

    async def check_queue(self) -> None:
        """Raise QueueFullError if too many jobs are queued."""
        queued = await self.work.call_store(self.store.count_queued)
        if queued >= self.params.serve.max_queued_jobs:
            seconds_per_job = self.desk.mean_seconds / max(1, self.engine.state.rows)
            raise QueueFullError(max(1, round(queued * seconds_per_job)))

    async def accept(
        self, form: CritiqueForm, kind: str, status: str
    ) -> tuple[JobRow, Upload, bool]:
        """Store a photo and its job; return row, upload, and whether the job is new.

        Raises RequestRejected if the idempotency key was used for another photo.
        """
        upload = await self.work.call_upload_store(self.intake.save, form.content, form.name)
        row, new = await self.add_job(form, upload, kind, status)
        if not new:
            await self.work.call_upload_store(self.intake.delete, upload.filename)
            check_same_photo(row, upload)
        return row, upload, new

    async def add_job(
        self, form: CritiqueForm, upload: Upload, kind: str, status: str, pair_of: str | None = None
    ) -> tuple[JobRow, bool]:
        """Add a row for a request; return it, or the row of the same idempotency key and False."""
        row = {
            "id": form.job_id,
            "filename": upload.filename,
            "advisor": ",".join(form.advisors),
            "mode": form.mode,
            "status": status,
            "kind": kind,
            "subject": form.subject,
            "enable_rag": int(form.enable_rag),
            "idempotency_key": form.key,
            "photo_sha256": upload.sha256,
            "experiment": self.params.serve.experiment,
            "pair_of": pair_of,
        }
        try:
            return await self.work.call_store(self.store.add, row)
        except SQLAlchemyError:
            await self.work.call_upload_store(self.intake.delete, upload.filename)
            raise

    @asynccontextmanager
    async def lifespan_context(self) -> AsyncIterator[None]:
        """Run the service's background tasks, and drain them at the end."""
        for warning in self.settings.warnings:
            log.warning("%s", warning)
        for change in self.store.changes:
            log.info("database: added %s", change)
        await self.engine.start()
        loops = (self._run_adapters, self.work.run, self.work.run_heartbeat, self._watch_engine)
        tasks = [asyncio.create_task(loop()) for loop in loops]
        for task in tasks:
            task.add_done_callback(self._handle_task_end)
        try:
            yield
        finally:
            self.drain()
            await self.work.drain(max(0.0, self._drain_deadline - monotonic()))
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await self.engine.stop()
            self.store.engine.dispose()
            log.info("stopped")

    async def _run_adapters(self) -> None:
        state = self.engine.state
        if self.watch:
            await self.watch.scan()
            faults = [a.fault for a in state.adapters.values() if a.fault] or [self.watch.fault]
            if self.watch.merge and faults[0]:
                self._end(f"model_mode fine_tuned: {faults[0]}")
        if self.steering:
            await self.steering.refresh_safely()
        state.adapters_scanned = True
        await asyncio.gather(*(part.run() for part in (self.watch, self.steering) if part))

    async def _watch_engine(self) -> None:
        """End the service in fine_tuned mode if the model can never be loaded."""
        while self.engine.state.status != "error":
            await asyncio.sleep(0.2)
        if self.params.serve.model_mode == "fine_tuned":
            self._end(self.engine.state.message)

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        """End the service after a bug in a background task, so that it is started again."""
        if not task.cancelled() and task.exception():
            log.error("a background task failed", exc_info=task.exception())
            self._end(f"internal error: {task.exception()!r}; the log has more")

    def _end(self, reason: str) -> None:
        self.fatal = self.fatal or reason
        self.stop()

    def _add_gauges(self) -> None:
        state, add = self.engine.state, self.metrics.add_gauge
        adapters = state.adapters

        def count_faults() -> int:
            folder_fault = self.watch.fault if self.watch else ""
            return sum(bool(adapter.fault) for adapter in adapters.values()) + bool(folder_fault)

        add("ready", "1 if a request would be answered.", lambda: float(self.ready))
        add("waiting", "Requests that wait for a slot.", lambda: self.desk.waiting)
        add("busy", "Critiques in progress.", lambda: self.desk.busy)
        add("model_restarts", "Restarts of the model process.", lambda: state.restarts)
        add("model_bytes", "Memory of the model process.", lambda: state.memory)
        add("adapters", "Loaded adapters.", lambda: sum(a.serves for a in adapters.values()))
        add("adapter_faults", "Rejected adapters.", count_faults)


def _create_engine(settings: ServiceSettings) -> Engine:
    base, image, serve = settings.params.base, settings.params.image, settings.params.serve
    limits = (serve.batch_size, serve.max_new_tokens, serve.constrained)
    if settings.engine_url:
        return RemoteEngine(settings.engine_url, dict(settings.engine_models), *limits)
    return LocalEngine(WorkerConfig(base.source, (image.min_pixels, image.max_pixels), *limits))


def get_service(request: Request) -> Service:
    """Return the service of a request's application."""
    return request.app.state.service
