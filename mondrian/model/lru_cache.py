"""A cache bounded in bytes that drops the least recently used values first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """Thread-safe; two threads that miss the same key both compute its value.

    get_size   returns the bytes of a value
    max_bytes  of all values; the newest value stays, however large
    max_items  number of values; None for no limit
    """

    def __init__(
        self, get_size: Callable[[Value], int], max_bytes: int, max_items: int | None = None
    ) -> None:
        self._get_size, self._max_bytes, self._max_items = get_size, max_bytes, max_items
        self._cache: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> tuple[Value, bool]:
        """Return the value, computed by `compute` if it is missing, and whether it was cached."""
        cached = self.find(key)
        if cached is not None:
            return cached, True
        value = compute()
        self.put(key, value)
        return value, False

    def find(self, key: Hashable) -> Value | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        with self._lock:
            self._cache[key] = value
            while len(self._cache) > 1 and self._is_too_large():
                self._cache.popitem(last=False)

    def _is_too_large(self) -> bool:
        if self._max_items is not None and len(self._cache) > self._max_items:
            return True
        return sum(map(self._get_size, self._cache.values())) > self._max_bytes

    def remove(self, should_remove: Callable[[Hashable], bool]) -> None:
        with self._lock:
            for key in [key for key in self._cache if should_remove(key)]:
                del self._cache[key]
