"""Numbers of a report in the words of people: percent, points, seconds, moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "–"  # of a number that nobody knows yet
SHARE_FORMAT = {"kind": "share", "unit": ""}
ONE_DECIMAL_RANGE = 10  # percent from 0 or 100 within which a tenth says something


def percent(share: float) -> str:
    """0.05 as 5 %, 0.955 as 95.5 %."""
    percentage = 100 * share
    digits = 1 if min(abs(percentage), abs(100 - percentage)) < ONE_DECIMAL_RANGE else 0
    return f"{percentage:.{digits}f}".removesuffix(".0").replace("-", "−") + " %"


def format_value(value: float | None, metric: Mapping[str, Any], signed: bool = False) -> str:
    """A value of a metric with its unit; a difference of shares is in percent too."""
    if value is None:
        return UNKNOWN
    plus = "+" if signed and value > 0 else ""
    if metric["kind"] == "share":
        return plus + percent(value)
    return f"{plus}{_plain(value)} {metric['unit']}".rstrip()


def _plain(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def format_interval(now: Mapping[str, Any], metric: Mapping[str, Any], signed: bool = False) -> str:
    """The interval of an estimate in words."""
    if not now["count"]:
        return "no data"
    if now["low"] is None or now["high"] is None:
        return "too few for an interval"
    low, high = (format_value(now[end], metric, signed) for end in ("low", "high"))
    return f"{low.split(' ')[0]} to {high}"


def metric_format(metric: str) -> dict[str, str]:
    """How a metric of success is written, by its name alone."""
    return {"kind": "mean", "unit": "points"} if metric == "correction" else SHARE_FORMAT


def format_time(iso: str | None) -> str:
    """An ISO moment to the minute."""
    return iso[:16].replace("T", " ") if iso else UNKNOWN


def format_hours(count: float) -> str:
    """Hours as a person says them."""
    return f"{count:.1f} h".replace(".0 ", " ") if count < 10 else f"{count:.0f} h"


def plural(count: int, noun: str) -> str:
    """1 client, 2 clients."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
