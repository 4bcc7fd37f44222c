"""What was computed lately, by key, bounded in bytes: prompts known and photographs seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """Threads may ask at once; two that miss the same both make it, to the same bytes.

    size   bytes of a value
    limit  bytes of all; the last one stays, however large
    max_items   values
    """

    def __init__(self, size: Callable[[Value], int], limit: int, max_items: int) -> None:
        self._size, self._limit, self._max_items = size, limit, max_items
        self._cache: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value, and whether it was known."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key], True
        value = make()
        with self._lock:
            self._cache[key] = value
            while len(self._cache) > 1 and self._too_much():
                self._cache.popitem(last=False)
        return value, False

    def _too_much(self) -> bool:
        if len(self._cache) > self._max_items:
            return True
        return sum(map(self._size, self._cache.values())) > self._limit

    def forget(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Let go of values by key."""
        with self._lock:
            for key in [key for key in self._cache if unwanted(key)]:
                del self._cache[key]
