"""Waiting until something has happened. Only a test that hangs reaches the limit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import psutil

PATIENCE = 600.0  # seconds; an idle machine needs a fraction of it
T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], describe: Callable[[], object] = str) -> T:
    """Return the first true value of a condition, which is checked fifty times a second.

    describe  what to report if there is none after PATIENCE
    """
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, describe()
        time.sleep(0.02)
    return value


def is_alive(process: int) -> bool:
    """Return whether a process runs; a zombie has ended."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def setting(event: Event) -> Iterator[None]:
    """Set an event at the end, so that threads that wait for it end too."""
    try:
        yield
    finally:
        event.set()
