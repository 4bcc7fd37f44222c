"""What was computed lately, by key, bounded in bytes: prompts known and photographs seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Threads may ask at once; two that miss the same both make it, to the same bytes.

    size   bytes of a value
    limit  bytes of all; the last one stays, however large
    most   values
    """

    def __init__(self, size: Callable[[Value], int], limit: int, most: int) -> None:
        self._size, self._limit, self._most = size, limit, most
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value, and whether it was known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], True
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 1 and self._too_much():
                self._kept.popitem(last=False)
        return made, False

    def _too_much(self) -> bool:
        if len(self._kept) > self._most:
            return True
        return sum(map(self._size, self._kept.values())) > self._limit

    def forget(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Let go of values by key."""
        with self._lock:
            for key in [key for key in self._kept if unwanted(key)]:
                del self._kept[key]
