"""SIGTERM and Ctrl-C as a wish that is granted when the step under way is done."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopSignal:
    """`signal_number` is the signal that came, or 0; the second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.signal_number = 0

    @contextmanager
    def handle_signals(self) -> Iterator[StopSignal]:
        """Take SIGTERM and SIGINT for as long as the context lasts; only a main thread can."""
        old: dict[int, Any] = {}
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            old[number] = signal.signal(number, self._ask)
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal_number and number == signal.SIGINT:
            sys.exit(130)
        self.signal_number = number

    def exit_with_signal_status(self) -> None:
        """End the process with the status of the signal."""
        sys.exit(128 + self.signal_number)
