"""The parts of a running service, put together, started and ended in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

from fastapi import FastAPI, Request
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
from mondrian.serving.jobs.admission import AdmissionQueue, QueueFullError
from mondrian.serving.jobs.critique_runner import CritiqueRunner
from mondrian.serving.jobs.runner import JobRunner
from mondrian.serving.metrics import Metrics
from mondrian.serving.rollout_controller import RolloutController
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.engine import open_engine
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy

log = logging.getLogger("mondrian.service")


class ServiceUnavailableError(MondrianError):
    """Not now: loading, broken or stopping."""


class Service:
    """Everything that requests need; `stop` is called where it must not go on.

    Raises DataError or AdapterError at once where database or --lora_path are of no use.
    """

    def __init__(self, settings: ServiceSettings, engine: Engine | None = None) -> None:
        self.settings, self.params = settings, settings.params
        serve, image = self.params.serve, self.params.image
        self.store = JobStore(
            open_engine(settings.db), LeasePolicy(serve.lease_seconds, serve.max_attempts)
        )
        self.engine: Engine = engine or _engine(settings)
        self.metrics = Metrics()
        self.desk = AdmissionQueue(self.engine.state, serve.max_waiting_requests)
        self.intake = UploadStore(
            settings.data, image.min_pixels, image.max_pixels, serve.max_megapixels
        )
        self.work = JobRunner(
            CritiqueRunner(self.engine, self.params),
            self.desk,
            self.store,
            self.intake,
            self.metrics,
            self.params,
        )
        self.work.open = lambda: self.ready
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
            self.work.stand, self.work.begun = (
                self.steering.current_snapshot,
                self.steering.wait_for_start,
            )
        self.fatal = ""  # why the service ends by itself
        self.looked = False  # whether the adapters were looked at once
        self.deadline: float | None = None  # of what is still running, once it drains
        self.stop: Callable[[], None] = lambda: None
        self._gauges()

    @property
    def draining(self) -> bool:
        """Whether no new work is taken."""
        return self.deadline is not None

    def drain(self) -> None:
        """Take no new work from now on."""
        if self.deadline is None:
            self.deadline = monotonic() + self.params.serve.drain_seconds
            self.work.draining = True
            log.info("draining: no new work, %d under way", self.desk.busy)

    def admit(self, direct: bool = False) -> None:
        """Raise Busy or Full where a request cannot be taken now.

        direct  it waits for its critique: then there has to be a model, or one that comes back
        """
        if self.draining:
            raise ServiceUnavailableError("the service is stopping")
        state = self.engine.state
        if not direct:
            return
        if state.status == "error":
            raise ServiceUnavailableError(f"Service not initialized: {state.message}")
        if not self.looked or (state.status != "ready" and not state.restarts):
            raise ServiceUnavailableError("Service not initialized")
        self.desk.check_capacity()

    async def get_job(self, id: str, absent: str = "Job not found") -> JobRow:
        """A job by the id that a client gives. Raises HTTPException 404, which says `absent`."""
        job = await self.work.call_store(self.store.get, clean_id(id))
        if job is None:
            raise HTTPException(404, absent)
        return job

    async def check_queue(self) -> None:
        """Raise Full where too many jobs are queued."""
        waiting = await self.work.call_store(self.store.count_queued)
        if waiting >= self.params.serve.max_queued_jobs:
            seconds_per_job = self.desk.seconds / max(1, self.engine.state.rows)
            raise QueueFullError(max(1, round(waiting * seconds_per_job)))

    async def accept(
        self, form: CritiqueForm, kind: str, status: str
    ) -> tuple[JobRow, Upload, bool]:
        """Keep a photograph and its row; the row, and whether it is new.

        Where the idempotency key is known the row is the first one's and nothing is kept. Raises
        Refused where that was of another photograph.
        """
        taken = await self.work.call_upload_store(self.intake.save, form.content, form.name)
        row, new = await self.add_job(form, taken, kind, status)
        if not new:
            await self.work.call_upload_store(self.intake.delete, taken.filename)
            check_same_photo(row, taken)
        return row, taken, new

    async def add_job(
        self, form: CritiqueForm, taken: Upload, kind: str, status: str, pair_of: str | None = None
    ) -> tuple[JobRow, bool]:
        """A row for a request, or the one that its idempotency key is known from.

        pair_of  the job that has the same photograph critiqued by the other arm
        """
        row = {
            "id": form.job_id,
            "filename": taken.filename,
            "advisor": ",".join(form.advisors),
            "mode": form.mode,
            "status": status,
            "kind": kind,
            "subject": form.subject,
            "enable_rag": int(form.enable_rag),
            "idempotency_key": form.key,
            "photo_sha256": taken.sha256,
            "experiment": self.params.serve.experiment,
            "pair_of": pair_of,
        }
        try:
            return await self.work.call_store(self.store.add, row)
        except SQLAlchemyError:
            await self.work.call_upload_store(self.intake.delete, taken.filename)
            raise

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self.engine.state.status == "ready" and self.looked and not self.draining

    @asynccontextmanager
    async def lifespan_context(self) -> AsyncIterator[None]:
        """From start to end of the service."""
        for warning in self.settings.warnings:
            log.warning("%s", warning)
        for change in self.store.changes:
            log.info("database: added %s", change)
        await self.engine.start()
        parts = [
            self._run_adapter_loops(),
            self.work.run(),
            self.work.run_heartbeat(),
            self._watch_engine(),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            yield
        finally:
            self.drain()
            await self.work.drain(max(0.0, (self.deadline or 0) - monotonic()))
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await self.engine.stop()
            self.store.engine.dispose()
            log.info("stopped")

    async def _run_adapter_loops(self) -> None:
        if self.watch:
            await self.watch.scan()
            faults = [a.fault for a in self.engine.state.adapters.values() if a.fault]
            if self.watch.merge and (faults or self.watch.fault):
                self._end(f"model_mode fine_tuned: {(faults or [self.watch.fault])[0]}")
        if self.steering:
            await self.steering.refresh_safely()
        self.looked = True
        loops = [part.run() for part in (self.watch, self.steering) if part]
        await asyncio.gather(*loops)

    async def _watch_engine(self) -> None:
        """End where the model can never be: what is wrong is said once, in one line."""
        while self.engine.state.status != "error":
            await asyncio.sleep(0.2)
        if self.params.serve.model_mode == "fine_tuned":
            self._end(self.engine.state.message)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A part that ends by a fault of ours ends the service, which is started again."""
        if not task.cancelled() and task.exception():
            log.error("a part of the service failed", exc_info=task.exception())
            self._end(f"internal error: {task.exception()!r}; the log has more")

    def _end(self, fault: str) -> None:
        self.fatal = self.fatal or fault
        self.stop()

    def _gauges(self) -> None:
        state, gauge = self.engine.state, self.metrics.add_gauge
        gauge("ready", "1 where a request would be answered.", lambda: float(self.ready))
        gauge("waiting", "Requests in line.", lambda: self.desk.waiting)
        gauge("busy", "Critiques under way.", lambda: self.desk.busy)
        gauge("model_restarts", "Deaths of the model process.", lambda: state.restarts)
        gauge("model_bytes", "Memory of the model process.", lambda: state.memory)
        gauge(
            "adapters",
            "Adapters that serve.",
            lambda: sum(a.serves for a in state.adapters.values()),
        )
        gauge(
            "adapter_faults",
            "Adapters that were refused.",
            lambda: (
                sum(bool(a.fault) for a in state.adapters.values())
                + bool(self.watch and self.watch.fault)
            ),
        )


def _engine(settings: ServiceSettings) -> Engine:
    params = settings.params
    serve = params.serve
    if settings.engine_url:
        return RemoteEngine(
            settings.engine_url,
            dict(settings.engine_models),
            serve.batch_size,
            serve.max_new_tokens,
            serve.constrained,
        )
    return LocalEngine(
        WorkerConfig(
            params.base.source,
            (params.image.min_pixels, params.image.max_pixels),
            serve.batch_size,
            serve.max_new_tokens,
            serve.constrained,
        )
    )


def get_service(request: Request) -> Service:
    """The service that a request came to."""
    app: FastAPI = request.app
    service: Service = app.state.service
    return service
