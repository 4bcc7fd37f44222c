"""Stopping a job at any moment, and starting it again at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.serving.engines.base import Completion, CritiqueRequest
from mondrian.serving.jobs import runner
from mondrian.serving.service import Service
from mondrian.serving.settings import ServiceSettings
from mondrian.storage.jobs import STOPPED, JobRow
from mondrian.storage.tables import jobs
from tests.core.odd_photos import encode
from tests.serving.idle_service import IdleEngine
from tests.storage.job_rows import get_row, new_job
from tests.waiting import PATIENCE


class SlowEngine(IdleEngine):
    """An engine that never answers, and ends cancelled requests only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.state.adapters_scanned, self.state.batch_size = True, 2
        self.requests = 0
        self.may_end = asyncio.Event()

    async def critique(self, request: CritiqueRequest, /) -> Completion:
        self.requests += 1
        request.on_text("{", 1)
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_end.wait()
        raise AssertionError


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
def service(
    tmp_path: Path, params: Params, engine: SlowEngine, photos: list[Image.Image]
) -> Service:
    """Return a service with the queued job `a`."""
    settings = ServiceSettings(params, None, str(tmp_path / "jobs.db"), tmp_path, "")
    service = Service(settings, engine)
    photo = service.uploads.save(encode(photos[0], "JPEG"), "lake.jpg")
    service.store.add(new_job(id="a", filename=photo.filename))
    return service


@asynccontextmanager
async def running(service: Service, engine: SlowEngine) -> AsyncIterator[None]:
    loops = (service.job_runner.run, service.job_runner.run_heartbeat)
    tasks = [asyncio.create_task(loop()) for loop in loops]
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    finally:
        engine.may_end.set()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await service.job_runner.drain(0)
        service.store.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_loop_that_is_cancelled_as_a_job_ends_stops(service: Service, engine: SlowEngine) -> None:
    async def run() -> bool:
        engine.state.adapters_scanned = False  # nothing is claimed
        task = asyncio.create_task(service.job_runner.run())
        await asyncio.sleep(0.05)
        service.job_runner.notify_queued()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        service.job_runner.draining = True
        await asyncio.gather(task, return_exceptions=True)
        service.store.close()
        return bool(done)

    assert asyncio.run(run())


def test_a_stop_before_a_claimed_job_has_a_task_is_honored(
    service: Service, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, claims = service.store.claim, []

    def claim_and_stop() -> JobRow | None:
        claims.append(True)
        job = claim()
        if job:
            assert service.store.stop(job["id"])  # what a request does in another thread
        return job

    monkeypatch.setattr(service.store, "claim", claim_and_stop)

    async def run() -> None:
        async with running(service, engine):
            await until(lambda: len(claims) > 1)  # the first one has its task now
            await until(lambda: engine.requests > 0 or not service.job_runner.running)

    asyncio.run(run())
    assert engine.requests == 0
    assert get_row(service.store, "a")["error"] == STOPPED


def test_a_job_that_is_stopped_and_started_again_at_once_keeps_its_new_lease(
    service: Service, engine: SlowEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HEARTBEAT_INTERVAL", 0.02)
    jobs = service.job_runner

    def lease_end() -> float:
        return float(get_row(service.store, "a")["leased_until"])

    async def run() -> None:
        async with running(service, engine):
            await until(lambda: engine.requests == 1)
            assert await jobs.stop("a")
            assert await service.restart_job("a")
            await until(lambda: engine.requests == 2)
            assert jobs.running == 2  # the first run has not ended yet
            engine.may_end.set()
            await until(lambda: jobs.running == 1)
            assert jobs.progress["a"].text == "{"
            last = lease_end()
            await until(lambda: lease_end() > last)
            assert get_row(service.store, "a")["status"] == "analyzing"

    asyncio.run(run())
    assert get_row(service.store, "a")["status"] == "queued"


@pytest.mark.parametrize(
    ("column", "is_restarted"),
    [("advisor", True), ("filename", True), ("queued_at", False)],  # a restart sets the time
)
def test_a_job_with_a_damaged_row_fails_with_one_line_in_the_log(
    service: Service,
    engine: SlowEngine,
    caplog: pytest.LogCaptureFixture,
    column: str,
    is_restarted: bool,
) -> None:
    def has_failed() -> bool:
        return bool(get_row(service.store, "a")["status"] == "failed")

    async def run() -> None:
        if is_restarted:
            assert await service.job_runner.stop("a")
        with service.store.engine.begin() as connection:
            connection.execute(jobs.update().values({column: None}))
        async with running(service, engine):
            if is_restarted:
                assert await service.restart_job("a")
            await until(has_failed)

    asyncio.run(run())
    reason = f"its row in the table jobs has no {column}; send the photo again"
    assert get_row(service.store, "a")["error"] == reason
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == f"job a: {reason}"
    assert not record.exc_info
