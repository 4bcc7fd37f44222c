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
from mondrian.serving.assignment import Dealer, Plan, Stand, draw
from mondrian.serving.engines.base import EngineFault, ModelDied
from mondrian.serving.http.uploads import Intake, Refused
from mondrian.serving.jobs.admission import Desk
from mondrian.serving.jobs.critique_runner import Answer, Critic
from mondrian.serving.jobs.progress import Progress
from mondrian.serving.jobs.result import values_of
from mondrian.serving.metrics import Metrics
from mondrian.storage.engine import one_line
from mondrian.storage.jobs import GONE, NO_PLACE, Row, Store

Result = TypeVar("Result")
log = logging.getLogger("mondrian.work")
BEAT = 2.0  # seconds between two notes of how far a critique is
IDLE = 1.0  # seconds after which the queue is looked at again, unless something came


async def _at_once(_: str) -> None:
    """Nothing to wait for: there are no roll-outs."""


class Work:
    """Direct requests and queued jobs, each to its end.

    params  say who answers: model_mode, split and experiment
    """

    def __init__(
        self, critic: Critic, desk: Desk, store: Store, intake: Intake, metrics: Metrics,
        params: Params,
    ) -> None:  # fmt: skip
        self.critic, self.desk, self.store, self.intake = critic, desk, store, intake
        self.metrics, self.params = metrics, params
        self.progress: dict[str, Progress] = {}
        self.draining = False
        self.open: Callable[[], bool] = lambda: True  # whether the engine takes work now
        self.stand: Callable[[str], Stand | None] = lambda _: None  # of an advisor's roll-out
        self.begun: Callable[[str], Awaitable[None]] = _at_once  # waits for that to begin
        self._ids: set[str] = set()  # of all that is under way here
        self._came = asyncio.Event()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="jobs")
        self._pictures = ThreadPoolExecutor(2, thread_name_prefix="photographs")
        self._running: set[asyncio.Task[None]] = set()

    async def db(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """A call of the store, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(call, *args, **values)
        )

    async def photo(self, call: Callable[..., Result], *args: Any) -> Result:
        """A call of the intake, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pictures, partial(call, *args)
        )

    def plan(self, row: Row, advisor: str) -> Plan:
        """Who is to answer a job in an advisor's name. Raises UnknownMode."""
        serve, stand = self.params.serve, self.stand(advisor)
        dealer = Dealer(advisor, serve.model_mode, serve.experiment, serve.ab_test_split, stand)
        mode = row["mode"] or ""
        if (
            row["kind"] == "shadow"
            and stand
            and not stand.withdrawn
            and (row.get("rollout") == stand.rollout)
        ):
            return dealer.on(row["side"], mode)
        return dealer.plan(mode, row["subject"] or row["id"])

    def came(self) -> None:
        """Something was queued."""
        self._came.set()

    async def direct(
        self, row: Row, picture: Image.Image, grow: Callable[[str, int], None] | None = None
    ) -> Row:
        """Answer a request that waits for it; the finished row.

        grow  is told the text as it comes

        Raises EngineFault; cancelled, the job has failed.
        """
        started, told, outcome = monotonic(), GONE, "abandoned"
        self._ids.add(row["id"])
        try:
            for last in (False, True):
                try:
                    answers = await self._answered(row, picture, alone=last, grow=grow)
                    break
                except ModelDied:
                    if last:
                        raise
                    if grow:
                        grow("", 0)  # what was told so far is begun anew
                    self.metrics.retries.labels("model died").inc()
            values = values_of(answers, self.params, monotonic() - started)
            await self.db(self.store.finish, row["id"], **values)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                told, outcome = str(error) or type(error).__name__, "failed"
            self.metrics.count(row, self._used(row), outcome)
            await asyncio.shield(self._quiet(self.store.fail, row["id"], told))
            raise
        finally:
            self._ids.discard(row["id"])
        self.metrics.completed(row, answers, monotonic() - started)
        await self._shadow(row, answers[0].plan)
        return row | values | {"status": "completed"}

    async def _answered(
        self, row: Row, picture: Image.Image, alone: bool,
        grow: Callable[[str, int], None] | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Answers of every advisor of a job, one after the other, in one place."""
        advisors = row["advisor"].split(",")
        progress = Progress(advisors[0], of=len(advisors))

        def grown(text: str, tokens: int) -> None:
            progress.tokens = tokens
            progress.text = progress.text + text if tokens else ""
            if grow:
                grow(text, tokens)

        try:
            async with self.desk.place(alone, counted=row["kind"] == "direct"):
                self.progress[row["id"]] = progress
                for advisor in advisors:
                    await self.begun(advisor)
                # Here, not in line: who serves may have changed meanwhile.
                plans = {advisor: self.plan(row, advisor) for advisor in advisors}
                await self._dealt(row, plans)
                answers = []
                for progress.place, progress.advisor in enumerate(advisors, 1):
                    progress.since, progress.text = monotonic(), ""
                    read = grow is not None or row["kind"] == "upload"  # by somebody, on a page
                    answers.append(await self.critic.answer(
                        progress.advisor, plans[progress.advisor], picture, grown, read
                    ))  # fmt: skip
                return answers
        finally:
            self.progress.pop(row["id"], None)
            self._came.set()  # a place is free

    async def _dealt(self, row: Row, plans: Mapping[str, Plan]) -> None:
        """Write down what a roll-out drew for a job, before anything can go wrong with it."""
        place = next(iter(plans.values())).place if len(plans) == 1 else None
        if place and row["kind"] != "shadow":
            await self.db(self.store.note, row["id"], **asdict(place))
        elif place is None and row.get("rollout"):  # of a try, or a roll-out, before
            await self.db(self.store.note, row["id"], **NO_PLACE)

    def _used(self, row: Row) -> str:
        """Who was to answer a job, as jobs.model_used says it."""
        return self.plan(row, row["advisor"].split(",")[0]).model_used

    async def run(self) -> None:
        """Take jobs from the queue as there are places, until cancelled."""
        while not self.draining:
            self._came.clear()
            job = None
            # Only what has a place at once is taken: another service could do it.
            if self.open() and self.desk.free > 0 and len(self._running) < self.desk.state.rows:
                job = await self._quiet(self.store.claim)
            if job:
                task = asyncio.create_task(self._job(job))
                self._running.add(task)
                task.add_done_callback(self._ended)
            else:
                try:
                    await asyncio.wait_for(self._came.wait(), IDLE)
                except TimeoutError:
                    pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._came.set()
        if not task.cancelled() and task.exception():
            log.error("a job's task failed", exc_info=task.exception())

    async def _job(self, row: Row) -> None:
        self._ids.add(row["id"])
        try:
            await self._critiqued(row)
        except (
            Exception
        ) as error:  # a setting that changed, a row of another version, our own fault
            log.exception("job %s", row["id"])
            await self._quiet(self.store.fail, row["id"], str(error) or type(error).__name__)
        finally:
            self._ids.discard(row["id"])

    async def _critiqued(self, row: Row) -> None:
        started, id = monotonic(), row["id"]
        try:
            picture = await self.photo(self.intake.again, row["filename"])
            alone = bool(row["crashes"])
            answers = await self._answered(row, picture, alone)
            values = values_of(answers, self.params, monotonic() - started)
        except Refused as error:
            await self._settled(self.store.fail, id, str(error))
            self.metrics.count(row, self._used(row), "failed")
            return
        except EngineFault as error:
            if self.draining and isinstance(error, ModelDied):
                return  # given back as a whole
            if not self.open() and not isinstance(error, ModelDied):
                await self._settled(self.store.give_back, id)  # an outage is not the job's fault
                return
            reason = type(error).__name__
            self.metrics.retries.labels(reason).inc()
            log.warning("job %s: %s; tried again", id, error)
            crashed = isinstance(error, ModelDied)
            became = await self._settled(self.store.again, row, str(error), crashed)
            outcome = "failed" if became == "failed" else "retried"
            self.metrics.count(row, self._used(row), outcome)
            return
        if await self._settled(self.store.finish, id, **values):
            self.metrics.completed(row, answers, monotonic() - started)
            await self._shadow(row, answers[0].plan)

    async def _settled(self, call: Callable[..., Result], *args: Any, **values: Any) -> Result:
        """What became of a job, written down however long the database is away.

        The lease runs on meanwhile; once it is lost another has the job, and nothing is written.
        """
        wait = 0.5
        while True:
            try:
                return await self.db(call, *args, **values)
            except (OperationalError, InterfaceError) as error:
                log.error("database: %s; again in %.1f s", one_line(error), wait)
                await asyncio.sleep(wait)
                wait = min(10.0, 2 * wait)

    async def _shadow(self, row: Row, planned: Plan) -> None:
        """Let the other arm critique the same photograph, by and by, for a share of requests."""
        serve, place = self.params.serve, planned.place
        share = serve.shadow_share
        if row["kind"] == "shadow" or planned.fell_back or not share:
            return
        if draw(f"{serve.experiment}/shadow", row["id"]) >= share:
            return
        dealt = {} if place is None else asdict(place) | {"side": place.other}
        other = dealt | {
            "id": str(uuid4()), "kind": "shadow", "status": "queued", "pair_of": row["id"],
            "mode": "base" if planned.other == "base" else "lora", "advisor": row["advisor"],
            "filename": row["filename"], "subject": row["subject"],
            "photo_sha256": row["photo_sha256"], "experiment": serve.experiment,
        }  # fmt: skip
        await self._quiet(self.store.add, other)
        self.came()

    async def _quiet(self, call: Callable[..., Any], *args: Any) -> Any:
        """A call that may fail now and be made again later."""
        try:
            return await self.db(call, *args)
        except SQLAlchemyError as error:
            log.error("database: %s", one_line(error))
            await asyncio.sleep(IDLE)
            return None

    async def beat(self) -> None:
        """Renew leases, note progress, take over what others left behind, until cancelled."""
        while True:
            notes = {id: p.note(self.params) for id, p in list(self.progress.items())}
            await self._quiet(self.store.beat, list(self._ids), notes)
            swept = await self._quiet(self.store.sweep)
            if swept:
                log.warning("took over %d jobs of a service that stopped", len(swept))
                self.came()
            await asyncio.sleep(min(BEAT, self.params.serve.lease_seconds / 4))

    def so_far(self, id: str) -> dict[str, Any] | None:
        """A critique as far as it has come, and its text; None where it is not under way here."""
        progress = self.progress.get(id)
        if progress is None:
            return None
        return progress.note(self.params) | {"advisor": progress.advisor, "text": progress.text}

    async def drain(self, seconds: float) -> None:
        """No new work; what runs is finished within the time, or given back."""
        self.draining = True
        self._came.set()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._quiet(self.store.release)
