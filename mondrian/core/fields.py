"""Parsing of database fields, and number types that several packages share."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNKNOWN_TIME = float("inf")  # timestamp of a job without any time


def is_for_advisor(field: str, advisor: str) -> bool:
    """Return whether a row's `advisor` field names the advisor: alone, in a list, or as `all`."""
    return not split_advisors(field).isdisjoint((advisor, "all"))


def split_advisors(field: str) -> set[str]:
    """Return the names in a row's `advisor` field; `all` stands for all advisors."""
    return {part.strip() for part in field.split(",")}


def parse_timestamp(value: Any) -> float | None:
    """Return seconds since 1970 of a number, ISO text or SQL text (UTC); None for anything else."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(str(value).strip())
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < 253_402_300_800 else None  # the year 9999


def first_timestamp(values: Iterable[Any]) -> float:
    return next((time for time in map(parse_timestamp, values) if time is not None), UNKNOWN_TIME)
