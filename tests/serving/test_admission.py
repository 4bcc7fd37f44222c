"""Places at the engine: never more than there are, first come, first served, none lost."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.serving.engines.base import EngineState
from mondrian.serving.jobs.admission import AdmissionQueue, QueueFullError

COMERS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=14
)  # alone, turns it stays, turn in which it gives up waiting (0: never)


@given(COMERS, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_places_are_kept_whoever_comes_and_goes(
    comers: list[tuple[bool, int, int]], rows: int
) -> None:
    asyncio.run(_everybody(comers, rows))


async def _everybody(comers: list[tuple[bool, int, int]], rows: int) -> None:
    desk = AdmissionQueue(EngineState(rows=rows), 100)
    inside: list[bool] = []
    served = 0

    async def come(alone: bool, stays: int) -> None:
        nonlocal served
        async with desk.acquire_slot(alone):
            inside.append(alone)
            assert len(inside) <= rows
            assert len(inside) == 1 or not any(inside)
            try:
                for _ in range(stays):
                    await asyncio.sleep(0)
                served += 1
            finally:
                inside.remove(alone)

    tasks = []
    for alone, stays, leaves in comers:
        task = asyncio.create_task(come(alone, stays))
        tasks.append(task)
        if leaves:
            for _ in range(leaves):
                await asyncio.sleep(0)
            task.cancel()
    told = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert all(t is None or isinstance(t, asyncio.CancelledError) for t in told)
    assert (desk.busy, desk.waiting) == (0, 0)
    assert served == sum(t is None for t in told)


def test_a_line_that_is_too_long_says_when_to_come_again() -> None:
    async def ask() -> None:
        desk = AdmissionQueue(EngineState(rows=1), 1)
        desk.mean_seconds = 4.0
        async with desk.acquire_slot():
            desk.check_capacity()
            waiting = asyncio.create_task(_enter(desk))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="try again in 4 s"):
                desk.check_capacity()
        await waiting

    asyncio.run(ask())


async def _enter(desk: AdmissionQueue) -> None:
    async with desk.acquire_slot():
        pass
