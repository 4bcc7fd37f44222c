"""Series of a report -> a chart as SVG paths and labels, drawn on the server without a library.

mondrian/serving/templates/chart.html makes an SVG of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, floor, log10
from typing import Any

from mondrian.rollout.formatting import format_value
from mondrian.rollout.time_series import Point

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440, 56, 24, 18, 24  # of a drawing, and of its margins
_TICK_INTERVALS = (
    60,
    300,
    900,
    1800,
    3600,
    7200,
    14400,
    21600,
    43200,
    86400,
)  # seconds between two times
_TICKS_PER_AXIS = 4  # on an axis, about
_INTERVAL_PADDING = 1.8  # half intervals that an axis reaches to
_MAX_OVERSHOOT = 5.0  # lengths of an axis
_MIN_LABEL_DISTANCE = 46  # of two labels beside each other


@dataclass(frozen=True)
class ChartLine:
    """One arm: its interval as an area, its mean as a line, and the newest mean as a dot."""

    name: str
    area: str
    mean: str
    dot: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """Everything that a chart shows, in the units of its view box.

    inside  x, y, width and height of what lines are cut to
    y, x    where labels are, and what they say
    levels  y of lines that mean something (no difference, the margin), and what
    marks   x of moments that mean something (a step), and what
    """

    width: int
    height: int
    inside: tuple[int, int, int, int]
    lines: list[ChartLine]
    y: list[tuple[float, str]]
    x: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    marks: list[tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """From a value to a place; what lies far outside lies a little less far."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(
            self.start + min(_MAX_OVERSHOOT, max(-_MAX_OVERSHOOT, share)) * (self.end - self.start),
            1,
        )


def build_chart(
    series: Mapping[str, Sequence[Point]],
    metric: Mapping[str, Any],
    since: float,
    until: float,
    height: int = 190,
    levels: Mapping[str, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    signed: bool = False,
) -> Chart | None:
    """Series as a chart; None where there is nothing to see.

    since, until  seconds since 1970, the ends of the time axis; a last look may lie after
    levels        values that are always within the chart
    signed        the values are differences
    """
    visible_series = {
        name: points for name, points in series.items() if any(p[2] is not None for p in points)
    }
    if not visible_series:
        return None
    last = max(float(points[-1][0] or 0) for points in visible_series.values())
    time = Scale(since, max(until, last, since + 60), LEFT, WIDTH - RIGHT)
    low, high = _axis_limits(visible_series.values(), metric, signed, list((levels or {}).values()))
    value = Scale(low, high, height - BOTTOM, TOP)
    return Chart(
        WIDTH,
        height,
        (LEFT, TOP, WIDTH - LEFT - RIGHT, height - TOP - BOTTOM),
        [_line(name, points, time, value) for name, points in visible_series.items()],
        [
            (value(tick), format_value(tick, {**metric, "unit": ""}, signed))
            for tick in ticks(low, high)
        ],
        [(time(tick), label) for tick, label in time_ticks(time.low, time.high)],
        [(value(level), label) for label, level in (levels or {}).items()],
        _blank_overlapping_labels(
            [(time(t), label) for t, label in marks if time.low < t < time.high]
        ),
    )


def _line(name: str, points: Sequence[Point], time: Scale, value: Scale) -> ChartLine:
    known = [
        (time(t), value(mean)) for t, _, mean, *_ in points if t is not None and mean is not None
    ]
    banded = [
        (time(t), value(low), value(high))
        for t, _, _, low, high in points
        if t is not None and low is not None and high is not None
    ]
    around = [(x, high) for x, _, high in banded] + [(x, low) for x, low, _ in reversed(banded)]
    return ChartLine(name, path(around) + "Z" if around else "", path(known), known[-1])


def _blank_overlapping_labels(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Marks without the words of those that stand too near to the one before."""
    spaced_marks: list[tuple[float, str]] = []
    last = float("-inf")
    for x, words in sorted(marks):
        spaced_marks.append((x, words if x - last >= _MIN_LABEL_DISTANCE else ""))
        last = x if x - last >= _MIN_LABEL_DISTANCE else last
    return spaced_marks


def path(points: Sequence[tuple[float, float]]) -> str:
    """Points as `d` of a path."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _axis_limits(
    series: Iterable[Sequence[Point]],
    metric: Mapping[str, Any],
    signed: bool,
    levels: Sequence[float],
) -> tuple[float, float]:
    """Ends of the axis: the means of late, and the newest intervals with room around them.

    The first intervals are as wide as can be; to show all of them would flatten the rest.
    """
    inside = list(levels)
    for points in series:
        _, _, mean, low, high = points[-1]
        late = points[len(points) // 2 :]
        inside += [p[2] for p in late if p[2] is not None]
        if mean is not None and low is not None and high is not None:
            inside += [
                mean + _INTERVAL_PADDING * (low - mean),
                mean + _INTERVAL_PADDING * (high - mean),
            ]
    low, high = min(inside), max(inside)
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room
    if signed:
        return low, high
    return max(0.0, low), min(1.0, high) if metric["kind"] == "share" else high


def ticks(low: float, high: float) -> list[float]:
    """Round values between two, about _LABELS of them."""
    rough = (high - low) / _TICKS_PER_AXIS
    unit = 10.0 ** floor(log10(rough))
    step = next(size * unit for size in (1, 2, 2.5, 5, 10) if size * unit >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, floor(high / step + 1e-9) + 1)]


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round moments between two, and what they are called: days, or minutes of a day (UTC)."""
    day = 86400
    min_span = (high - low) / _TICKS_PER_AXIS
    spans = (*_TICK_INTERVALS, *(day * count for count in (2, 4, 7, 14, 28, 91, 182, 365)))
    span = next((seconds for seconds in spans if seconds >= min_span), day * ceil(min_span / day))
    name: Callable[[datetime], str] = _format_day if span >= day else _format_minute
    first, last = ceil(low / span), floor(high / span)
    return [
        (float(i * span), name(datetime.fromtimestamp(i * span, UTC)))
        for i in range(first, last + 1)
    ]


def _format_day(time: datetime) -> str:
    return f"{time.day} {time:%b}"


def _format_minute(time: datetime) -> str:
    return f"{time:%H:%M}" if (time.hour, time.minute) != (0, 0) else _format_day(time)
