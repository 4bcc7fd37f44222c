"""Places at the engine: as many critiques at a time as it makes, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mondrian.serving.engines.base import EngineState


class QueueFullError(Exception):
    """Too many wait already; `seconds` is when it may be worth another try."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many critiques are waiting; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Somebody in line."""

    turn: asyncio.Future[None]
    alone: bool
    counted: bool


class AdmissionQueue:
    """Who may ask the engine now.

    max_waiting  that may wait for a place
    """

    def __init__(self, state: EngineState, max_waiting: int) -> None:
        self.state, self.max_waiting = state, max_waiting
        self.busy = 0
        self.coming = 0  # on their way into the line
        self.seconds = 1.0  # that a critique held its place lately, on average
        self._alone = False
        self._line: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """How many clients are in line."""
        return sum(waiter.counted for waiter in self._line)

    @property
    def free_slots(self) -> int:
        """Places that nobody has or waits for."""
        return 0 if self._alone else self.state.rows - self.busy - len(self._line)

    def check_capacity(self) -> None:
        """Raise Full where the line is too long, or will be with those who are coming."""
        ahead, free = self.waiting + self.coming, max(0, self.state.rows - self.busy)
        if ahead >= self.max_waiting + free:
            raise QueueFullError(max(1, round(self.seconds * ahead / max(1, self.state.rows))))

    @contextmanager
    def reserve_queue_slot(self) -> Iterator[None]:
        """Count as coming meanwhile, so that many at once do not all find room.

        Raises Full.
        """
        self.check_capacity()
        self.coming += 1
        try:
            yield
        finally:
            # Two turns of the loop later: the task that takes the place is begun by then.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._release_reservation)

    def _release_reservation(self) -> None:
        self.coming -= 1

    @asynccontextmanager
    async def acquire_slot(self, alone: bool = False, counted: bool = True) -> AsyncIterator[None]:
        """Wait in line for a place; `alone` for all of them.

        counted  whether it is one of those that `max_waiting` may wait
        """
        waiter = _Waiting(asyncio.get_running_loop().create_future(), alone, counted)
        self._line.append(waiter)
        self._advance()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._line:
                self._line.remove(waiter)
            elif not waiter.turn.cancelled():
                self._release_slot(alone)
            self._advance()
            raise
        started = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            took = asyncio.get_running_loop().time() - started
            self.seconds += 0.1 * (took - self.seconds)
            self._release_slot(alone)
            self._advance()

    def _release_slot(self, alone: bool) -> None:
        self.busy -= 1
        self._alone = self._alone and not alone

    def _advance(self) -> None:
        while self._line and not self._alone:
            waiter = self._line[0]
            if self.busy >= (1 if waiter.alone else self.state.rows):
                return
            self._line.popleft()
            if not waiter.turn.done():
                self.busy += 1
                self._alone = waiter.alone
                waiter.turn.set_result(None)
