"""Admission: never more critiques at a time than slots, in FIFO order, and no slot is lost."""

import asyncio

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


@given(REQUESTS, st.integers(1, 4))
@settings(max_examples=150)
def test_slots_are_never_exceeded_or_lost_when_requests_come_and_are_cancelled(
    requests: list[tuple[bool, int, int]], rows: int
) -> None:
    asyncio.run(_run_requests(requests, rows))


async def _run_requests(requests: list[tuple[bool, int, int]], rows: int) -> None:
    admission = AdmissionQueue(EngineState(batch_size=rows), 100)
    running: list[bool] = []
    completed = 0

    async def use_slot(exclusive: bool, turns: int) -> None:
        nonlocal completed
        async with admission.acquire_slot(exclusive):
            running.append(exclusive)
            assert len(running) <= rows
            assert len(running) == 1 or not any(running)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                completed += 1
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
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results)
    assert (admission.busy, admission.waiting) == (0, 0)
    assert completed == sum(result is None for result in results)


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
