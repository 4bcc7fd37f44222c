"""Admission to the engine: at most as many critiques at a time as it generates, in FIFO order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from mondrian.serving.engines.base import EngineState


class QueueFullError(Exception):
    """Too many requests are waiting; `seconds` is when a retry may succeed."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many critiques are waiting; try again in {seconds} s")
        self.seconds = seconds


class _Waiter(NamedTuple):
    admitted: asyncio.Future[None]
    exclusive: bool
    is_client: bool


class AdmissionQueue:
    """Slots of the engine. Of those who wait, `max_waiting` limits the clients, not queued jobs."""

    def __init__(self, state: EngineState, max_waiting: int) -> None:
        self.state, self.max_waiting = state, max_waiting
        self.busy = 0
        self.mean_seconds = 1.0  # that a slot was in use, as a moving average
        self._reserved = 0
        self._exclusive = False
        self._queue: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        return sum(waiter.is_client for waiter in self._queue)

    @property
    def free_slots(self) -> int:
        return 0 if self._exclusive else self.state.batch_size - self.busy - len(self._queue)

    def check_capacity(self) -> None:
        """Raise QueueFullError if too many wait, reservations included."""
        ahead, free = self.waiting + self._reserved, max(0, self.state.batch_size - self.busy)
        if ahead >= self.max_waiting + free:
            raise QueueFullError(
                max(1, round(self.mean_seconds * ahead / max(1, self.state.batch_size)))
            )

    @contextmanager
    def reserve_queue_slot(self) -> Iterator[None]:
        """Count a request that will wait soon. Raises QueueFullError."""
        self.check_capacity()
        self._reserved += 1
        try:
            yield
        finally:
            # Two iterations of the event loop later, the task that takes the slot has started.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._release_reservation)

    def _release_reservation(self) -> None:
        self._reserved -= 1

    @asynccontextmanager
    async def acquire_slot(
        self, exclusive: bool = False, is_client: bool = True
    ) -> AsyncIterator[None]:
        """Wait for a slot and use it; `exclusive` waits for all of them."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), exclusive, is_client)
        self._queue.append(waiter)
        self._admit()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif not waiter.admitted.cancelled():
                self._release_slot(exclusive)
            self._admit()
            raise
        started = loop.time()
        try:
            yield
        finally:
            self.mean_seconds += 0.1 * (loop.time() - started - self.mean_seconds)
            self._release_slot(exclusive)
            self._admit()

    def _release_slot(self, exclusive: bool) -> None:
        self.busy -= 1
        self._exclusive = self._exclusive and not exclusive

    def _admit(self) -> None:
        while self._queue and not self._exclusive:
            waiter = self._queue[0]
            if self.busy >= (1 if waiter.exclusive else self.state.batch_size):
                return
            self._queue.popleft()
            if not waiter.admitted.done():
                self.busy += 1
                self._exclusive = waiter.exclusive
                waiter.admitted.set_result(None)
