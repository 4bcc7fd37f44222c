"""Runs jobs: from their row in the database to the critique that is stored there."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from time import monotonic, time
from typing import Any, TypeVar
from uuid import uuid4

from PIL import Image
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as DatabaseTimeoutError

from mondrian.core.errors import MondrianError
from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS
from mondrian.serving.assignment import AnswerPlan, ArmAssigner, hash_to_unit_interval
from mondrian.serving.engines.base import EngineFault, ModelDied, TextCallback
from mondrian.serving.http.uploads import QUICK_DECODERS, RequestRejectedError, UploadStore
from mondrian.serving.jobs.admission import AdmissionQueue
from mondrian.serving.jobs.critique_runner import CritiqueRunner, ServedCritique
from mondrian.serving.metrics import Metrics
from mondrian.serving.rollout_controller import RolloutController
from mondrian.storage.engine import LOCK_SECONDS, format_database_error
from mondrian.storage.jobs import CLIENT_DISCONNECTED, NO_ROLLOUT_VALUES, JobRow, JobStore
from mondrian.storage.tables import CANDIDATE, CONTROL

Result = TypeVar("Result")
log = logging.getLogger("mondrian.work")
HEARTBEAT_INTERVAL = 2.0  # seconds
_READS = 4  # reads and pages at a time: more would delay the event loop (GIL)
_WRITES = 8  # changes for clients at a time
_CRITIQUE_FIELDS = (  # of these, each dimension has a recommendation
    "image_description recommendation overall_score key_strengths priority_improvements "
    "technical_notes"
).split()
IDLE_POLL_INTERVAL = 1.0  # seconds between two looks at the queue, unless something is queued


@dataclass
class JobProgress:
    """Progress of a job: `advisor` is number `position` of `advisor_count`."""

    advisor: str
    position: int = 1
    advisor_count: int = 1
    tokens: int = 0
    text: str = ""
    started: float = field(default_factory=monotonic)

    def progress_columns(self, params: Params) -> dict[str, Any]:
        name, seconds = params.profile(self.advisor).name, max(1e-3, monotonic() - self.started)
        if self.tokens:
            fraction = min(1.0, self.tokens / params.serve.max_new_tokens)
            step, percent = f"Analyzing with {name}...", 30 + int(40 * fraction)
            rate = self.tokens / seconds
            thinking = f"Generating analysis... ({self.tokens} tokens, {rate:.1f} tps)"
        else:
            step, percent, thinking = f"Summoning {name}...", 10, ""
        percentage = (100 * (self.position - 1) + percent) // self.advisor_count
        return {"current_step": step, "progress_percentage": percentage, "llm_thinking": thinking}

    def page_percentage(self) -> int:
        """Return how far the job is, by the fields of the critiques that are written."""
        written = sum(self.text.count(f'"{field}"') for field in _CRITIQUE_FIELDS)
        share = 0.05 + 0.9 * min(1.0, written / (len(DIMENSIONS) + len(_CRITIQUE_FIELDS) - 1))
        return int(100 * (self.position - 1 + share) / self.advisor_count)


class JobRunner:
    def __init__(
        self,
        critique_runner: CritiqueRunner,
        store: JobStore,
        uploads: UploadStore,
        metrics: Metrics,
        rollout_controller: RolloutController | None = None,
    ) -> None:
        self.critique_runner, self.store, self.uploads = critique_runner, store, uploads
        self.metrics, self.rollout_controller = metrics, rollout_controller
        self.params, self.state = critique_runner.params, critique_runner.engine.state
        self.admission = AdmissionQueue(self.state, self.params.serve.max_waiting_requests)
        self.progress: dict[str, JobProgress] = {}
        self.draining = False
        self._leased_ids: set[str] = set()
        self._wake_up = asyncio.Event()
        self._read_threads = ThreadPoolExecutor(_READS, thread_name_prefix="reads")
        self._write_threads = ThreadPoolExecutor(_WRITES, thread_name_prefix="writes")
        self._write_slots = asyncio.Semaphore(_WRITES)
        self._job_threads = ThreadPoolExecutor(4, thread_name_prefix="jobs")
        self._image_threads = ThreadPoolExecutor(4, thread_name_prefix="photos")
        self._decoding_threads = ThreadPoolExecutor(QUICK_DECODERS, thread_name_prefix="decoding")
        self._slow_decoding_thread = ThreadPoolExecutor(1, thread_name_prefix="large photo")
        self._tasks: dict[asyncio.Task[None], str] = {}  # with the job's id

    @property
    def ready(self) -> bool:
        state = self.state
        return state.status == "ready" and state.adapters_scanned and not self.draining

    @property
    def running(self) -> int:
        """Jobs of the queue in progress; those that a client waits for are not counted."""
        return len(self._tasks)

    async def call_store(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """Call what reads the database or renders a page, in a thread that no writer uses."""
        return await _run_in(self._read_threads, call, *args, **values)

    async def write_store(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """Call what changes the database for a client, in a thread.

        Raises SQLAlchemyError after LOCK_SECONDS of waiting for other writers here, or after as
        many for a lock of another program.
        """
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await self._write_slots.acquire()
        except TimeoutError:
            raise DatabaseTimeoutError("it is locked; other changes wait for it") from None
        try:
            return await _run_in(self._write_threads, call, *args, **values)
        finally:
            self._write_slots.release()

    async def call_upload_store(self, call: Callable[..., Result], *args: Any) -> Result:
        """Call a method of the upload store that does not decode uploads."""
        return await _run_in(self._image_threads, call, *args)

    async def decode_upload(
        self, call: Callable[..., Result], photo: bytes | str, *args: Any
    ) -> Result:
        """Call a method of the upload store that decodes; large photos wait for each other only."""
        is_slow = await _run_in(self._decoding_threads, self.uploads.is_slow, photo)
        threads = self._slow_decoding_thread if is_slow else self._decoding_threads
        return await _run_in(threads, call, photo, *args, is_slow=is_slow)

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
        self._leased_ids.add(row["id"])
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
            await self._retry_until_stored(self.store.complete, row["id"], **values)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                reason, outcome = str(error) or type(error).__name__, "failed"
            self._count_failure(row, outcome)
            await asyncio.shield(self._try_store_call(self.store.fail, row["id"], reason))
            raise
        finally:
            self._leased_ids.discard(row["id"])
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
            self.progress.pop(row["id"], None)
            self._wake_up.set()  # a slot is free

    async def _record_assignment(self, row: JobRow, plans: Mapping[str, AnswerPlan]) -> None:
        """Store the rollout assignment of a job before anything can fail."""
        assignment = next(iter(plans.values())).rollout_assignment if len(plans) == 1 else None
        if assignment and row["kind"] != "shadow":
            await self._retry_until_stored(self.store.update_owned, row["id"], **asdict(assignment))
        elif assignment is None and row.get("rollout"):  # of an earlier try
            await self._retry_until_stored(self.store.update_owned, row["id"], **NO_ROLLOUT_VALUES)

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
                job = await self._try_store_call(self.store.claim)
            if job:
                task = asyncio.create_task(self._run_job(job))
                self._tasks[task] = job["id"]
                task.add_done_callback(self._handle_task_end)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake_up.wait(), IDLE_POLL_INTERVAL)

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
        self._leased_ids.add(row["id"])
        try:
            await self._critique_job(row)
        except Exception as error:  # changed params, a row of another version, a bug
            is_bug = not isinstance(error, MondrianError)
            log.error("job %s: %s", row["id"], error, exc_info=is_bug)
            reason = str(error) or type(error).__name__
            await self._try_store_call(self.store.fail, row["id"], reason)
        finally:
            self._leased_ids.discard(row["id"])

    async def _critique_job(self, row: JobRow) -> None:
        started = monotonic()
        try:
            image = await self.decode_upload(self.uploads.load_image, row["filename"])
            critiques = await self._run_advisors(row, image, exclusive=bool(row["crashes"]))
            values = self.critique_runner.result_columns(critiques, monotonic() - started)
        except RequestRejectedError as error:
            await self._retry_until_stored(self.store.fail, row["id"], str(error))
            self._count_failure(row, "failed")
        except EngineFault as error:
            await self._requeue_or_fail(row, error)
        else:
            if await self._retry_until_stored(self.store.complete, row["id"], **values):
                self.metrics.record_completed_job(row, critiques, monotonic() - started)
                await self._queue_shadow_job(row, critiques[0].plan)

    async def _requeue_or_fail(self, row: JobRow, error: EngineFault) -> None:
        crashed, id = isinstance(error, ModelDied), row["id"]
        if self.draining and crashed:
            return  # `drain` returns it to the queue
        if not self.ready and not crashed:  # an outage is not an attempt
            await self._retry_until_stored(self.store.return_to_queue, id)
            return
        self.metrics.retries.labels(type(error).__name__).inc()
        log.warning("job %s: %s; retried", id, error)
        status = await self._retry_until_stored(self.store.retry_or_fail, row, str(error), crashed)
        self._count_failure(row, "failed" if status == "failed" else "retried")

    async def _retry_until_stored(
        self, call: Callable[..., Result], *args: Any, **values: Any
    ) -> Result:
        """Store the outcome of a job, however long the database is unavailable.

        If the lease is lost meanwhile, another service owns the job, and nothing is written.
        """
        delay = 0.5
        while True:
            try:
                return await _run_in(self._job_threads, call, *args, **values)
            except (OperationalError, InterfaceError) as error:
                log.error("database: %s; retry in %.1f s", format_database_error(error), delay)
                await asyncio.sleep(delay)
                delay = min(10.0, 2 * delay)

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
        await self._try_store_call(self.store.add, shadow)
        self.notify_queued()

    async def _try_store_call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the job store; return None if it fails, as the caller will try again later."""
        try:
            return await _run_in(self._job_threads, call, *args)
        except SQLAlchemyError as error:
            log.error("database: %s", format_database_error(error))
            await asyncio.sleep(IDLE_POLL_INTERVAL)
            return None

    async def run_heartbeat(self) -> None:
        """Renew leases, store progress, and take over abandoned jobs, until cancelled."""
        while True:
            columns = {id: p.progress_columns(self.params) for id, p in list(self.progress.items())}
            ids = list(self._leased_ids)
            reclaimed = await self._try_store_call(self._renew_and_reclaim, ids, columns)
            if reclaimed:
                log.warning("took over %d jobs of a service that stopped", len(reclaimed))
                self.notify_queued()
            await asyncio.sleep(min(HEARTBEAT_INTERVAL, self.params.serve.lease_seconds / 4))

    def _renew_and_reclaim(self, ids: list[str], columns: dict[str, JobRow]) -> list[str]:
        """Reclaim only after our own leases are renewed: the database may have been locked."""
        self.store.renew_leases(ids, columns)
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
        await self._try_store_call(self.store.return_all_to_queue)
        for threads in (self._decoding_threads, self._slow_decoding_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self.uploads.close()


async def _run_in(
    threads: ThreadPoolExecutor, call: Callable[..., Result], *args: Any, **values: Any
) -> Result:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, partial(call, *args, **values))
