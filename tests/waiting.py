"""Waiting until something has happened. Only a test that hangs reaches the limit."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().split()[2] != "Z"
