"""Runs jobs: from their row in the database to the critique that is stored there."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from time import monotonic, time
from uuid import uuid4

from PIL import Image

from mondrian.core.errors import DataError, MondrianError
from mondrian.serving.assignment import AnswerPlan, ArmAssigner, hash_to_unit_interval
from mondrian.serving.engines.base import EngineFault, ModelDied, TextCallback
from mondrian.serving.http.uploads import RequestRejectedError, UploadStore
from mondrian.serving.jobs.admission import AdmissionQueue
from mondrian.serving.jobs.critique_runner import CritiqueRunner, ServedCritique
from mondrian.serving.jobs.progress import JobProgress
from mondrian.serving.jobs.threads import IDLE_POLL_INTERVAL, ServiceThreads
from mondrian.serving.metrics import Metrics
from mondrian.serving.rollout_controller import RolloutController
from mondrian.storage.jobs import CLIENT_DISCONNECTED, NO_ROLLOUT_VALUES, JobRow, JobStore
from mondrian.storage.tables import CANDIDATE, CONTROL

log = logging.getLogger("mondrian.work")
HEARTBEAT_INTERVAL = 2.0  # seconds


class JobRunner(ServiceThreads):
    def __init__(
        self,
        critique_runner: CritiqueRunner,
        store: JobStore,
        uploads: UploadStore,
        metrics: Metrics,
        rollout_controller: RolloutController | None = None,
    ) -> None:
        super().__init__(uploads)
        self.critique_runner, self.store = critique_runner, store
        self.metrics, self.rollout_controller = metrics, rollout_controller
        self.params, self.state = critique_runner.params, critique_runner.engine.state
        self.admission = AdmissionQueue(self.state, self.params.serve.max_waiting_requests)
        self.progress: dict[str, JobProgress] = {}
        self.draining = False
        self._leased: dict[str, JobRow] = {}  # rows of jobs that run here, by lease
        self._wake_up = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], str] = {}  # with the job's id

    @property
    def ready(self) -> bool:
        state = self.state
        return state.status == "ready" and state.adapters_scanned and not self.draining

    @property
    def running(self) -> int:
        """Jobs of the queue in progress; those that a client waits for are not counted."""
        return len(self._tasks)

    def plan(self, row: JobRow, advisor: str) -> AnswerPlan:
        """Return which arm answers a job for an advisor. Raises UnknownModeError."""
        serve, mode = self.params.serve, row["mode"] or ""
        controller = self.rollout_controller
        snapshot = controller.current_snapshot(advisor) if controller else None
        split = serve.ab_test_split
        assigner = ArmAssigner(advisor, serve.model_mode, serve.experiment, split, snapshot)
        if row["kind"] == "shadow" and snapshot and not snapshot.withdrawal_reason:
            if row.get("rollout") == snapshot.rollout:
                return assigner.plan_side(row["side"], mode)
        return assigner.plan(mode, row["subject"] or row["id"])

    def notify_queued(self) -> None:
        self._wake_up.set()

    async def run_direct(
        self, row: JobRow, image: Image.Image, on_text: TextCallback | None = None
    ) -> JobRow:
        """Run a job that a client waits for; return its finished row. Raises EngineFault."""
        started, reason, outcome = monotonic(), CLIENT_DISCONNECTED, "abandoned"
        self._leased[row["owner"]] = row
        try:
            try:
                critiques = await self._run_advisors(row, image, False, on_text)
            except ModelDied:  # once more, with no other sequence in the batch
                if on_text:
                    on_text("", 0)  # discard the text so far
                self.metrics.retries.labels(ModelDied.__name__).inc()
                row = row | {"queued_at": time()}
                critiques = await self._run_advisors(row, image, True, on_text)
            values = self.critique_runner.result_columns(critiques, monotonic() - started)
            await self.retry_until_stored(self.store.complete, row, **values)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                reason, outcome = str(error) or type(error).__name__, "failed"
            self._count_failure(row, outcome)
            await asyncio.shield(self.try_store_call(self.store.fail, row, reason))
            raise
        finally:
            del self._leased[row["owner"]]
        self.metrics.record_completed_job(row, critiques, monotonic() - started)
        await self._queue_shadow_job(row, critiques[0].plan)
        return row | values | {"status": "completed"}

    async def _run_advisors(
        self, row: JobRow, image: Image.Image, exclusive: bool, on_text: TextCallback | None = None
    ) -> list[ServedCritique]:
        """Run the advisors of a job one after the other, in one slot."""
        advisors = row["advisor"].split(",")
        progress = JobProgress(advisors[0], advisor_count=len(advisors))
        stream = on_text is not None or row["kind"] == "upload"  # a page shows the text of uploads

        def update_progress(text: str, tokens: int) -> None:
            progress.tokens = tokens
            progress.text = progress.text + text if tokens else ""
            if on_text:
                on_text(text, tokens)

        try:
            async with self.admission.acquire_slot(exclusive, is_client=row["kind"] == "direct"):
                started = monotonic()
                self.progress[row["id"]] = progress
                queue_seconds = max(0.0, time() - row["queued_at"])  # the clock may be set back
                self.metrics.queue_time.labels(row["kind"]).observe(queue_seconds)
                if self.rollout_controller:
                    for advisor in advisors:
                        await self.rollout_controller.wait_for_start(advisor)
                # Planned only now: another adapter may serve than before the wait for a slot.
                plans = {advisor: self.plan(row, advisor) for advisor in advisors}
                await self._record_assignment(row, plans)
                critiques = []
                for progress.position, advisor in enumerate(advisors, 1):
                    progress.advisor, progress.started, progress.text = advisor, monotonic(), ""
                    critique = await self.critique_runner.generate_critique(
                        advisor, plans[advisor], image, update_progress, stream
                    )
                    critiques.append(critique)
                self.metrics.service_time.labels(row["kind"]).observe(monotonic() - started)
                return critiques
        finally:
            if self.progress.get(row["id"]) is progress:  # else the job runs again already
                del self.progress[row["id"]]
            self._wake_up.set()  # a slot is free

    async def _record_assignment(self, row: JobRow, plans: Mapping[str, AnswerPlan]) -> None:
        """Store the rollout assignment of a job before anything can fail."""
        assignment = next(iter(plans.values())).rollout_assignment if len(plans) == 1 else None
        if assignment and row["kind"] != "shadow":
            await self.retry_until_stored(self.store.update_leased, row, **asdict(assignment))
        elif assignment is None and row.get("rollout"):  # of an earlier try
            await self.retry_until_stored(self.store.update_leased, row, **NO_ROLLOUT_VALUES)

    def _count_failure(self, row: JobRow, outcome: str) -> None:
        model_used = self.plan(row, row["advisor"].split(",")[0]).model_used
        self.metrics.count_critique(row, model_used, outcome)

    async def run(self) -> None:
        """Claim and run queued jobs while slots are free, until cancelled."""
        while not self.draining:
            self._wake_up.clear()
            job = None
            # Only what can start at once is claimed: another service could run it.
            can_start = self.admission.free_slots > 0 and len(self._tasks) < self.state.batch_size
            if self.ready and can_start:
                job = await self.try_store_call(self.store.claim)
            if job:
                task = asyncio.create_task(self._run_job(job))
                self._tasks[task] = job["id"]
                task.add_done_callback(self._handle_task_end)
            else:
                with suppress(TimeoutError):  # wait_for of Python 3.11 can lose a cancellation
                    async with asyncio.timeout(IDLE_POLL_INTERVAL):
                        await self._wake_up.wait()

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._wake_up.set()
        if not task.cancelled() and task.exception():
            log.error("a job's task failed", exc_info=task.exception())

    async def stop(self, id: str) -> bool:
        """Stop a job of an upload; return False if it neither waits nor runs."""
        is_stopped = await self.write_store(self.store.stop, id)
        if is_stopped:
            for task in [task for task, job in self._tasks.items() if job == id]:
                task.cancel()
        return is_stopped

    async def _run_job(self, row: JobRow) -> None:
        self._leased[row["owner"]] = row
        try:
            # it may have been stopped before it had a task; unknown counts as not
            if await self.try_store_call(self.store.holds_lease, row) is not False:
                _check_row(row)
                await self._critique_job(row)
        except Exception as error:  # changed params, a row of another version, a bug
            is_bug = not isinstance(error, MondrianError)
            log.error("job %s: %s", row["id"], error, exc_info=is_bug)
            reason = str(error) or type(error).__name__
            await self.try_store_call(self.store.fail, row, reason)
        finally:
            del self._leased[row["owner"]]

    async def _critique_job(self, row: JobRow) -> None:
        started = monotonic()
        try:
            image = await self.decode_upload(self.uploads.load_image, row["filename"])
            critiques = await self._run_advisors(row, image, exclusive=bool(row["crashes"]))
            values = self.critique_runner.result_columns(critiques, monotonic() - started)
        except RequestRejectedError as error:
            await self.retry_until_stored(self.store.fail, row, str(error))
            self._count_failure(row, "failed")
        except EngineFault as error:
            await self._requeue_or_fail(row, error)
        else:
            if await self.retry_until_stored(self.store.complete, row, **values):
                self.metrics.record_completed_job(row, critiques, monotonic() - started)
                await self._queue_shadow_job(row, critiques[0].plan)

    async def _requeue_or_fail(self, row: JobRow, error: EngineFault) -> None:
        crashed = isinstance(error, ModelDied)
        if self.draining and crashed:
            return  # `drain` returns it to the queue
        if not self.ready and not crashed:  # an outage is not an attempt
            await self.retry_until_stored(self.store.return_to_queue, row)
            return
        self.metrics.retries.labels(type(error).__name__).inc()
        log.warning("job %s: %s; retried", row["id"], error)
        status = await self.retry_until_stored(self.store.retry_or_fail, row, str(error), crashed)
        self._count_failure(row, "failed" if status == "failed" else "retried")

    async def _queue_shadow_job(self, row: JobRow, plan: AnswerPlan) -> None:
        """Queue the same photo for the other arm, for a share of requests."""
        serve, assignment = self.params.serve, plan.rollout_assignment
        share = serve.shadow_share
        if row["kind"] == "shadow" or plan.fell_back or not share:
            return
        if hash_to_unit_interval(f"{serve.experiment}/shadow", row["id"]) >= share:
            return
        shadow = {
            "id": str(uuid4()),
            "kind": "shadow",
            "status": "queued",
            "pair_of": row["id"],
            "mode": "lora" if plan.arm == "base" else "base",
            "experiment": serve.experiment,
        }
        for name in ("advisor", "filename", "subject", "photo_sha256"):
            shadow[name] = row[name]
        if assignment:
            shadow |= asdict(assignment)
            shadow["side"] = CONTROL if assignment.side == CANDIDATE else CANDIDATE
        if await self.try_store_call(self.store.count_queued) in range(serve.max_queued_jobs):
            await self.try_store_call(self.store.add, shadow)
            self.notify_queued()
        else:
            log.warning("job %s: no shadow job: the queue is full, or cannot be read", row["id"])

    async def run_heartbeat(self) -> None:
        """Renew leases, store progress, and take over abandoned jobs, until cancelled."""
        while True:
            columns = {id: p.progress_columns(self.params) for id, p in list(self.progress.items())}
            leased = list(self._leased.values())
            reclaimed = await self.try_store_call(self._renew_and_reclaim, leased, columns)
            if reclaimed:
                log.warning("took over %d jobs of a service that stopped", len(reclaimed))
                self.notify_queued()
            await asyncio.sleep(min(HEARTBEAT_INTERVAL, self.params.serve.lease_seconds / 4))

    def _renew_and_reclaim(self, leased: list[JobRow], columns: dict[str, JobRow]) -> list[str]:
        """Reclaim only after our own leases are renewed: the database may have been locked."""
        self.store.renew_leases(leased, columns)
        return self.store.reclaim_abandoned()

    async def drain(self, seconds: float) -> None:
        """Start no job, let running jobs finish within the time, and requeue the others."""
        self.draining = True
        self._wake_up.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.try_store_call(self.store.return_all_to_queue)
        self.end_decoding()


def _check_row(row: JobRow) -> None:
    """Raise DataError if another program left a column empty that a critique needs."""
    empty = [name for name in ("advisor", "filename", "queued_at") if row[name] in (None, "")]
    if empty:
        columns = ", ".join(empty)
        raise DataError(f"its row in the table jobs has no {columns}; send the photo again")
