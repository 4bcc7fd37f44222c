"""Readings of fields and types of numbers that several packages share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNKNOWN_TIME = float("inf")  # `when` of a job without any time


def is_for_advisor(field: str, advisor: str) -> bool:
    """Whether a row's `advisor` field names the advisor."""
    advisors = [part.strip() for part in field.split(",")]
    return advisor in advisors or "all" in advisors


def parse_timestamp(value: Any) -> float | None:
    """Seconds since 1970 of a float, ISO text or SQL text (taken as UTC); None of anything else."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(str(value).strip())
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < 253_402_300_800 else None  # the year 9999


def first_timestamp(values: Any) -> float:
    """The first of several times that is one."""
    return next((when for when in map(parse_timestamp, values) if when is not None), UNKNOWN_TIME)
