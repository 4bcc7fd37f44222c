"""Admission: never more critiques at a time than slots, in FIFO order, and no slot is lost."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.serving.engines.base import EngineState
from mondrian.serving.jobs.admission import AdmissionQueue, QueueFullError
from tests.waiting import PATIENCE

# exclusive, loop turns in its slot, loop turns until it is cancelled (0: never)
REQUESTS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=14
)


@dataclass
class AdmissionRun:
    """What happened to some requests: the `exclusive` of all that run, at each start of one."""

    admission: AdmissionQueue
    running: list[list[bool]] = field(default_factory=list)
    results: list[BaseException | None] = field(default_factory=list)
    num_completed: int = 0


@given(REQUESTS, st.integers(1, 4))
@settings(max_examples=150)
def test_slots_are_never_exceeded_or_lost_when_requests_come_and_are_cancelled(
    requests: list[tuple[bool, int, int]], rows: int
) -> None:
    run = asyncio.run(_run_requests(requests, rows))
    assert all(len(running) <= rows for running in run.running)
    assert all(len(running) == 1 or not any(running) for running in run.running)
    assert all(r is None or isinstance(r, asyncio.CancelledError) for r in run.results)
    assert run.num_completed == run.results.count(None)
    assert (run.admission.busy, run.admission.waiting) == (0, 0)


async def _run_requests(requests: list[tuple[bool, int, int]], rows: int) -> AdmissionRun:
    run = AdmissionRun(AdmissionQueue(EngineState(batch_size=rows), 100))
    running: list[bool] = []

    async def use_slot(exclusive: bool, turns: int) -> None:
        async with run.admission.acquire_slot(exclusive):
            running.append(exclusive)
            run.running.append(list(running))
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                run.num_completed += 1
            finally:
                running.remove(exclusive)

    tasks = []
    for exclusive, turns, turns_to_cancel in requests:
        task = asyncio.create_task(use_slot(exclusive, turns))
        tasks.append(task)
        if turns_to_cancel:
            for _ in range(turns_to_cancel):
                await asyncio.sleep(0)
            task.cancel()
    all_tasks = asyncio.gather(*tasks, return_exceptions=True)
    run.results = await asyncio.wait_for(all_tasks, PATIENCE)
    return run


def test_a_full_queue_says_when_to_try_again() -> None:
    async def fill_queue() -> None:
        admission = AdmissionQueue(EngineState(batch_size=1), 1)
        admission.mean_seconds = 4.0
        async with admission.acquire_slot():
            admission.check_capacity()
            waiting = asyncio.create_task(_use_slot(admission))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="try again in 4 s"):
                admission.check_capacity()
        await waiting

    asyncio.run(fill_queue())


async def _use_slot(admission: AdmissionQueue) -> None:
    async with admission.acquire_slot():
        pass
