"""Critiques that were asked for, from their row in the database to the answer that it keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from PIL import Image
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from mondrian.core.params import Params
from mondrian.serving.assignment import (
    AnswerPlan,
    ArmAssigner,
    RolloutSnapshot,
    hash_to_unit_interval,
)
from mondrian.serving.engines.base import EngineFault, ModelDied
from mondrian.serving.http.uploads import RequestRejected, UploadStore
from mondrian.serving.jobs.admission import AdmissionQueue
from mondrian.serving.jobs.critique_runner import CritiqueRunner, ServedCritique
from mondrian.serving.jobs.progress import JobProgress
from mondrian.serving.jobs.result import build_result_columns
from mondrian.serving.metrics import Metrics
from mondrian.storage.engine import format_database_error
from mondrian.storage.jobs import CLIENT_DISCONNECTED, NO_ROLLOUT_VALUES, JobRow, JobStore

Result = TypeVar("Result")
log = logging.getLogger("mondrian.work")
HEARTBEAT_INTERVAL = 2.0  # seconds between two notes of how far a critique is
IDLE_POLL_INTERVAL = 1.0  # seconds after which the queue is looked at again, unless something came


async def _skip_rollout_wait(_: str) -> None:
    """Nothing to wait for: there are no roll-outs."""


class JobRunner:
    """Direct requests and queued jobs, each to its end.

    params  say who answers: model_mode, split and experiment
    """

    def __init__(
        self,
        critic: CritiqueRunner,
        desk: AdmissionQueue,
        store: JobStore,
        intake: UploadStore,
        metrics: Metrics,
        params: Params,
    ) -> None:
        self.critic, self.desk, self.store, self.intake = critic, desk, store, intake
        self.metrics, self.params = metrics, params
        self.progress: dict[str, JobProgress] = {}
        self.draining = False
        self.open: Callable[[], bool] = lambda: True  # whether the engine takes work now
        self.stand: Callable[[str], RolloutSnapshot | None] = lambda _: (
            None
        )  # of an advisor's roll-out
        self.begun: Callable[[str], Awaitable[None]] = _skip_rollout_wait  # waits for that to begin
        self._ids: set[str] = set()  # of all that is under way here
        self._came = asyncio.Event()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="jobs")
        self._pictures = ThreadPoolExecutor(2, thread_name_prefix="photographs")
        self._running: set[asyncio.Task[None]] = set()

    async def call_store(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """A call of the store, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(call, *args, **values)
        )

    async def call_upload_store(self, call: Callable[..., Result], *args: Any) -> Result:
        """A call of the intake, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pictures, partial(call, *args)
        )

    def plan(self, row: JobRow, advisor: str) -> AnswerPlan:
        """Who is to answer a job in an advisor's name. Raises UnknownMode."""
        serve, stand = self.params.serve, self.stand(advisor)
        dealer = ArmAssigner(
            advisor, serve.model_mode, serve.experiment, serve.ab_test_split, stand
        )
        mode = row["mode"] or ""
        if (
            row["kind"] == "shadow"
            and stand
            and not stand.withdrawal_reason
            and (row.get("rollout") == stand.rollout)
        ):
            return dealer.plan_side(row["side"], mode)
        return dealer.plan(mode, row["subject"] or row["id"])

    def notify_queued(self) -> None:
        """Something was queued."""
        self._came.set()

    async def run_direct(
        self, row: JobRow, picture: Image.Image, grow: Callable[[str, int], None] | None = None
    ) -> JobRow:
        """Answer a request that waits for it; the finished row.

        grow  is told the text as it comes

        Raises EngineFault; cancelled, the job has failed.
        """
        started, reason, outcome = monotonic(), CLIENT_DISCONNECTED, "abandoned"
        self._ids.add(row["id"])
        try:
            for last in (False, True):
                try:
                    answers = await self._run_advisors(row, picture, alone=last, grow=grow)
                    break
                except ModelDied:
                    if last:
                        raise
                    if grow:
                        grow("", 0)  # what was told so far is begun anew
                    self.metrics.retries.labels("model died").inc()
            values = build_result_columns(answers, self.params, monotonic() - started)
            await self.call_store(self.store.finish, row["id"], **values)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                reason, outcome = str(error) or type(error).__name__, "failed"
            self.metrics.count_critique(row, self._planned_model_used(row), outcome)
            await asyncio.shield(self._try_store_call(self.store.fail, row["id"], reason))
            raise
        finally:
            self._ids.discard(row["id"])
        self.metrics.record_completed_job(row, answers, monotonic() - started)
        await self._queue_shadow_job(row, answers[0].plan)
        return row | values | {"status": "completed"}

    async def _run_advisors(
        self,
        row: JobRow,
        picture: Image.Image,
        alone: bool,
        grow: Callable[[str, int], None] | None = None,
    ) -> list[ServedCritique]:
        """Answers of every advisor of a job, one after the other, in one place."""
        advisors = row["advisor"].split(",")
        progress = JobProgress(advisors[0], advisor_count=len(advisors))

        def update_progress(text: str, tokens: int) -> None:
            progress.tokens = tokens
            progress.text = progress.text + text if tokens else ""
            if grow:
                grow(text, tokens)

        try:
            async with self.desk.acquire_slot(alone, counted=row["kind"] == "direct"):
                self.progress[row["id"]] = progress
                for advisor in advisors:
                    await self.begun(advisor)
                # Here, not in line: who serves may have changed meanwhile.
                plans = {advisor: self.plan(row, advisor) for advisor in advisors}
                await self._record_assignment(row, plans)
                answers = []
                for progress.position, progress.advisor in enumerate(advisors, 1):
                    progress.since, progress.text = monotonic(), ""
                    read = grow is not None or row["kind"] == "upload"  # by somebody, on a page
                    answers.append(
                        await self.critic.generate_critique(
                            progress.advisor,
                            plans[progress.advisor],
                            picture,
                            update_progress,
                            read,
                        )
                    )
                return answers
        finally:
            self.progress.pop(row["id"], None)
            self._came.set()  # a place is free

    async def _record_assignment(self, row: JobRow, plans: Mapping[str, AnswerPlan]) -> None:
        """Write down what a roll-out drew for a job, before anything can go wrong with it."""
        place = next(iter(plans.values())).rollout_assignment if len(plans) == 1 else None
        if place and row["kind"] != "shadow":
            await self.call_store(self.store.update_owned, row["id"], **asdict(place))
        elif place is None and row.get("rollout"):  # of a try, or a roll-out, before
            await self.call_store(self.store.update_owned, row["id"], **NO_ROLLOUT_VALUES)

    def _planned_model_used(self, row: JobRow) -> str:
        """Who was to answer a job, as jobs.model_used says it."""
        return self.plan(row, row["advisor"].split(",")[0]).model_used

    async def run(self) -> None:
        """Take jobs from the queue as there are places, until cancelled."""
        while not self.draining:
            self._came.clear()
            job = None
            # Only what has a place at once is taken: another service could do it.
            if (
                self.open()
                and self.desk.free_slots > 0
                and len(self._running) < self.desk.state.rows
            ):
                job = await self._try_store_call(self.store.claim)
            if job:
                task = asyncio.create_task(self._run_job(job))
                self._running.add(task)
                task.add_done_callback(self._handle_task_end)
            else:
                try:
                    await asyncio.wait_for(self._came.wait(), IDLE_POLL_INTERVAL)
                except TimeoutError:
                    pass

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._came.set()
        if not task.cancelled() and task.exception():
            log.error("a job's task failed", exc_info=task.exception())

    async def _run_job(self, row: JobRow) -> None:
        self._ids.add(row["id"])
        try:
            await self._critique_job(row)
        except (
            Exception
        ) as error:  # a setting that changed, a row of another version, our own fault
            log.exception("job %s", row["id"])
            await self._try_store_call(
                self.store.fail, row["id"], str(error) or type(error).__name__
            )
        finally:
            self._ids.discard(row["id"])

    async def _critique_job(self, row: JobRow) -> None:
        started, id = monotonic(), row["id"]
        try:
            picture = await self.call_upload_store(self.intake.load_image, row["filename"])
            alone = bool(row["crashes"])
            answers = await self._run_advisors(row, picture, alone)
            values = build_result_columns(answers, self.params, monotonic() - started)
        except RequestRejected as error:
            await self._retry_until_stored(self.store.fail, id, str(error))
            self.metrics.count_critique(row, self._planned_model_used(row), "failed")
            return
        except EngineFault as error:
            if self.draining and isinstance(error, ModelDied):
                return  # given back as a whole
            if not self.open() and not isinstance(error, ModelDied):
                await self._retry_until_stored(
                    self.store.return_to_queue, id
                )  # an outage is not the job's fault
                return
            reason = type(error).__name__
            self.metrics.retries.labels(reason).inc()
            log.warning("job %s: %s; tried again", id, error)
            crashed = isinstance(error, ModelDied)
            became = await self._retry_until_stored(
                self.store.retry_or_fail, row, str(error), crashed
            )
            outcome = "failed" if became == "failed" else "retried"
            self.metrics.count_critique(row, self._planned_model_used(row), outcome)
            return
        if await self._retry_until_stored(self.store.finish, id, **values):
            self.metrics.record_completed_job(row, answers, monotonic() - started)
            await self._queue_shadow_job(row, answers[0].plan)

    async def _retry_until_stored(
        self, call: Callable[..., Result], *args: Any, **values: Any
    ) -> Result:
        """What became of a job, written down however long the database is away.

        The lease runs on meanwhile; once it is lost another has the job, and nothing is written.
        """
        wait = 0.5
        while True:
            try:
                return await self.call_store(call, *args, **values)
            except (OperationalError, InterfaceError) as error:
                log.error("database: %s; again in %.1f s", format_database_error(error), wait)
                await asyncio.sleep(wait)
                wait = min(10.0, 2 * wait)

    async def _queue_shadow_job(self, row: JobRow, planned: AnswerPlan) -> None:
        """Let the other arm critique the same photograph, by and by, for a share of requests."""
        serve, place = self.params.serve, planned.rollout_assignment
        share = serve.shadow_share
        if row["kind"] == "shadow" or planned.fell_back or not share:
            return
        if hash_to_unit_interval(f"{serve.experiment}/shadow", row["id"]) >= share:
            return
        rollout_columns = {} if place is None else asdict(place) | {"side": place.opposite_side}
        other = rollout_columns | {
            "id": str(uuid4()),
            "kind": "shadow",
            "status": "queued",
            "pair_of": row["id"],
            "mode": "base" if planned.shadow_arm == "base" else "lora",
            "advisor": row["advisor"],
            "filename": row["filename"],
            "subject": row["subject"],
            "photo_sha256": row["photo_sha256"],
            "experiment": serve.experiment,
        }
        await self._try_store_call(self.store.add, other)
        self.notify_queued()

    async def _try_store_call(self, call: Callable[..., Any], *args: Any) -> Any:
        """A call that may fail now and be made again later."""
        try:
            return await self.call_store(call, *args)
        except SQLAlchemyError as error:
            log.error("database: %s", format_database_error(error))
            await asyncio.sleep(IDLE_POLL_INTERVAL)
            return None

    async def run_heartbeat(self) -> None:
        """Renew leases, note progress, take over what others left behind, until cancelled."""
        while True:
            notes = {id: p.progress_columns(self.params) for id, p in list(self.progress.items())}
            await self._try_store_call(self.store.renew_leases, list(self._ids), notes)
            swept = await self._try_store_call(self.store.reclaim_abandoned)
            if swept:
                log.warning("took over %d jobs of a service that stopped", len(swept))
                self.notify_queued()
            await asyncio.sleep(min(HEARTBEAT_INTERVAL, self.params.serve.lease_seconds / 4))

    def partial_output(self, id: str) -> dict[str, Any] | None:
        """A critique as far as it has come, and its text; None where it is not under way here."""
        progress = self.progress.get(id)
        if progress is None:
            return None
        return progress.progress_columns(self.params) | {
            "advisor": progress.advisor,
            "text": progress.text,
        }

    async def drain(self, seconds: float) -> None:
        """No new work; what runs is finished within the time, or given back."""
        self.draining = True
        self._came.set()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._try_store_call(self.store.return_all_to_queue)
