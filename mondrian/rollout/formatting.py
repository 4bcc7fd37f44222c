"""Numbers of a rollout as text: shares in percent, values with units, intervals, times."""

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any

from mondrian.rollout.confidence_sequences import MIN_PER_ARM, Interval
from mondrian.rollout.store import HELD, ROLLED_BACK, RolloutRecord

UNKNOWN = "–"
TOO_FEW_TO_COMPARE = f"fewer than {MIN_PER_ARM} per arm"
SHARE_FORMAT = {"kind": "share", "unit": ""}
ONE_DECIMAL_RANGE = 10  # percent from 0 or 100 within which one decimal is shown


def percent(share: float) -> str:
    """Format 0.05 as 5 %, 0.955 as 95.5 %."""
    percentage = 100 * share
    digits = 1 if min(abs(percentage), abs(100 - percentage)) < ONE_DECIMAL_RANGE else 0
    return f"{percentage:.{digits}f}".removesuffix(".0").replace("-", "−") + " %"


def format_value(value: float | None, metric: Mapping[str, Any], signed: bool = False) -> str:
    """Format a value of a metric with its unit; a difference of shares is in percent too."""
    if value is None:
        return UNKNOWN
    plus = "+" if signed and value > 0 else ""
    if metric["kind"] == "share":
        return plus + percent(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{plus}{text.replace('-', '−')} {metric['unit']}".rstrip()


def format_interval(
    estimate: Mapping[str, Any], metric: Mapping[str, Any], signed: bool = False
) -> str:
    if not estimate["count"]:
        return "no data"
    if estimate["mean"] is None:
        return TOO_FEW_TO_COMPARE
    if estimate["low"] is None or estimate["high"] is None:
        return "no interval yet"
    low, high = (format_value(estimate[end], metric, signed) for end in ("low", "high"))
    return f"{low.split(' ')[0]} to {high}"


def format_difference(interval: Interval) -> str:
    if isnan(interval.mean):
        return f"{TOO_FEW_TO_COMPARE}, {plural(interval.count, 'observation')}"
    if not isfinite(interval.low):
        return f"{interval.count} observations are too few for an interval"
    ends = f"{interval.low:+.3g} to {interval.high:+.3g}"
    return f"{interval.mean:+.3g} ({ends}, {interval.count} observations)"


def format_state(record: RolloutRecord) -> str:
    """Format the state of a rollout as far as it is known without rollout.yaml."""
    if record.state == ROLLED_BACK:
        return record.state
    progress = "all clients" if record.full_since else f"step {record.step + 1}"
    return f"held at {progress}" if record.state == HELD else progress


def format_limit(limit: float, is_minimum: bool) -> str:
    return f"at {'least' if is_minimum else 'most'} {percent(limit)}"


def format_guardrail_verdict(verdict: str) -> str:
    """Format a verdict that means something only with its limit and control in full."""
    if verdict == "not surely worse":
        return "beyond the limit, but not surely worse than the control"
    return verdict


def format_time(iso: str | None) -> str:
    """Format an ISO time to the minute."""
    return iso[:16].replace("T", " ") if iso else UNKNOWN


def format_hours(hours: float) -> str:
    return f"{hours:.1f} h".replace(".0 ", " ") if hours < 10 else f"{hours:.0f} h"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
