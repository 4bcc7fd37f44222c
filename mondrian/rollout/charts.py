"""Charts of a report for the page: a bar for each guardrail, two SVG charts for each metric.

Drawn on the server without a library; mondrian/serving/templates/chart.html renders the SVG.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, floor
from typing import Any

from mondrian.core.axis import TICKS_PER_AXIS, ticks
from mondrian.rollout.formatting import format_value, percent
from mondrian.rollout.report import Point, RolloutReport

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440, 56, 24, 18, 24  # of a chart, and its margins
_DIFFERENCE_HEIGHT = 130
_DAY = 86400  # seconds
_TIME_INTERVALS = (60, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200, _DAY)  # seconds per tick
_DAY_INTERVALS = (2, 4, 7, 14, 28, 91, 182, 365)
_INTERVAL_PADDING = 1.8  # half intervals that an axis includes
_MAX_OVERSHOOT = 5.0  # axis lengths
_MIN_LABEL_DISTANCE = 46
Label = tuple[float, str]  # position and text


@dataclass(frozen=True)
class ChartLine:
    """An arm: its interval as an area, its mean as a line, its newest mean as a dot."""

    name: str
    area: str
    mean: str
    dot: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """The elements of a chart, in units of its view box.

    inside  x, y, width and height of the area that lines are clipped to
    y, x    labels of the axes
    levels  y of reference values (no difference, the margin)
    marks   x of events (the start of a step)
    """

    width: int
    height: int
    inside: tuple[int, int, int, int]
    lines: list[ChartLine]
    y: list[Label]
    x: list[Label]
    levels: list[Label]
    marks: list[Label]


@dataclass(frozen=True)
class ChartAxes:
    """The axes of a chart.

    metric        kind and unit of the values
    since, until  ends of the time axis, seconds since 1970; the newest point may be later
    is_signed     the values are differences
    """

    metric: Mapping[str, Any]
    since: float
    until: float
    is_signed: bool = False
    height: int = 190


@dataclass(frozen=True)
class Scale:
    """A map from values to positions, limited to a few axis lengths outside the axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        fraction = (value - self.low) / (self.high - self.low)
        fraction = min(_MAX_OVERSHOOT, max(-_MAX_OVERSHOOT, fraction))
        return round(self.start + fraction * (self.end - self.start), 1)


@dataclass(frozen=True)
class Bar:
    """A share on a scale from `start` to `end`; positions are percent of its width."""

    start: str
    end: str
    left: float
    width: float
    mean: float
    limit: float


@dataclass(frozen=True)
class RolloutCharts:
    """Bars and charts by name; None without data."""

    bars: dict[str, Bar | None]
    arms: dict[str, Chart | None]
    differences: dict[str, Chart | None]

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a chart."""
        return [name for name, chart in self.arms.items() if chart]


def build_page_charts(report: RolloutReport) -> RolloutCharts:
    since, until = _to_epoch(report["evidence_from"]), _to_epoch(report["created_at"])
    marks = _step_marks(report)
    unlabeled = [(time, "") for time, _ in marks]
    arms, differences = {}, {}
    for metric in report["metrics"]:
        name, axes = metric["name"], ChartAxes(metric, since, until)
        series = {arm: metric[arm]["series"] for arm in ("control", "candidate")}
        arms[name] = build_chart(series, axes, marks=marks)
        axes = ChartAxes(metric, since, until, is_signed=True, height=_DIFFERENCE_HEIGHT)
        series = {"difference": metric["difference"]["series"]}
        differences[name] = build_chart(series, axes, _difference_levels(report, metric), unlabeled)
    bars = {result["name"]: build_guardrail_bar(result) for result in report["guardrails"]}
    return RolloutCharts(bars, arms, differences)


def build_guardrail_bar(guardrail: Mapping[str, Any]) -> Bar | None:
    """Return share, interval and limit of a guardrail as a bar; None without data."""
    estimate, limit = guardrail["estimate"], guardrail["limit"]
    if not estimate["count"]:
        return None
    if guardrail["is_minimum"]:  # show the upper end of the scale
        start, end = max(0.0, min(estimate["low"], limit) - 0.05), 1.0
    else:
        start, end = 0.0, min(1.0, max(estimate["high"], 2 * limit, 0.02))

    def position(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    left, mean, right = (position(estimate[name]) for name in ("low", "mean", "high"))
    width = round(right - left, 2)
    return Bar(percent(start), percent(end), left, width, mean, position(limit))


def _step_marks(report: RolloutReport) -> list[Label]:
    """Return the start of each step and the rollbacks."""
    marks = []
    for decision in report["decisions"]:
        time, steps = _to_epoch(decision["decided_at"]), report["steps"]
        if decision["action"] == "advance" and decision["step"] < len(steps):
            marks.append((time, percent(steps[decision["step"]]["share"])))
        elif decision["action"] == "roll back":
            marks.append((time, "back"))
    return marks


def _difference_levels(report: RolloutReport, metric: Mapping[str, Any]) -> dict[str, float]:
    success = report["success"]
    if not success or success["metric"] != metric["name"] or not success["margin"]:
        return {"": 0.0}
    sign = -1 if metric["better"] == "high" else 1
    return {"": 0.0, "margin": sign * success["margin"]}


def _to_epoch(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def build_chart(
    series: Mapping[str, Sequence[Point]],
    axes: ChartAxes,
    levels: Mapping[str, float] | None = None,
    marks: Sequence[Label] = (),
) -> Chart | None:
    """Return the series of the arms as a chart; None without data.

    levels  reference values by label, always inside the chart
    marks   events: seconds since 1970 and label
    """
    levels, height = levels or {}, axes.height
    series = {
        name: points for name, points in series.items() if any(p[2] is not None for p in points)
    }
    if not series:
        return None
    newest = max(points[-1][0] for points in series.values())
    time = Scale(axes.since, max(axes.until, newest, axes.since + 60), LEFT, WIDTH - RIGHT)
    low, high = _value_limits(series.values(), axes, list(levels.values()))
    value, unitless = Scale(low, high, height - BOTTOM, TOP), {**axes.metric, "unit": ""}
    visible_marks = [(time(t), label) for t, label in marks if time.low < t < time.high]
    return Chart(
        WIDTH,
        height,
        (LEFT, TOP, WIDTH - LEFT - RIGHT, height - TOP - BOTTOM),
        lines=[_build_line(name, points, time, value) for name, points in series.items()],
        y=[(value(t), format_value(t, unitless, axes.is_signed)) for t in ticks(low, high)],
        x=[(time(tick), label) for tick, label in time_ticks(time.low, time.high)],
        levels=[(value(level), label) for label, level in levels.items()],
        marks=_blank_overlapping_labels(visible_marks),
    )


def _build_line(name: str, points: Sequence[Point], time: Scale, value: Scale) -> ChartLine:
    line = [(time(t), value(mean)) for t, _, mean, *_ in points if mean is not None]
    bounded = [point for point in points if None not in (point[3], point[4])]
    outline = [(time(t), value(high)) for t, *_, high in bounded]
    outline += [(time(t), value(low)) for t, _, _, low, _ in reversed(bounded)]
    return ChartLine(name, _svg_path(outline) + "Z" if outline else "", _svg_path(line), line[-1])


def _blank_overlapping_labels(marks: Sequence[Label]) -> list[Label]:
    """Remove the text of marks that are too close to the labeled one before."""
    spaced: list[Label] = []
    last = float("-inf")
    for x, text in sorted(marks):
        is_apart = x - last >= _MIN_LABEL_DISTANCE
        spaced.append((x, text if is_apart else ""))
        last = x if is_apart else last
    return spaced


def _svg_path(points: Sequence[tuple[float, float]]) -> str:
    """Return points as the `d` attribute of an SVG path."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def _value_limits(
    series: Iterable[Sequence[Point]], axes: ChartAxes, levels: Sequence[float]
) -> tuple[float, float]:
    """Return the ends of the value axis: recent means, and the newest intervals with padding.

    The first intervals are very wide; showing all of them would flatten the rest.
    """
    inside = list(levels)
    for points in series:
        _, _, mean, low, high = points[-1]
        inside += [p[2] for p in points[len(points) // 2 :] if p[2] is not None]
        if mean is not None and low is not None and high is not None:
            inside += [mean + _INTERVAL_PADDING * (end - mean) for end in (low, high)]
    low, high = min(inside), max(inside)
    padding = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - padding, high + padding
    if axes.is_signed:
        return low, high
    return max(0.0, low), min(1.0, high) if axes.metric["kind"] == "share" else high


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round times between two with their labels: days, or minutes of a day (UTC)."""
    min_step = (high - low) / TICKS_PER_AXIS
    steps = (*_TIME_INTERVALS, *(days * _DAY for days in _DAY_INTERVALS))
    step = next((size for size in steps if size >= min_step), _DAY * ceil(min_step / _DAY))
    times = [i * step for i in range(ceil(low / step), floor(high / step) + 1)]
    return [(float(t), _format_tick(datetime.fromtimestamp(t, UTC), step)) for t in times]


def _format_tick(time: datetime, step: float) -> str:
    is_day = step >= _DAY or (time.hour, time.minute) == (0, 0)
    return f"{time.day} {time:%b}" if is_day else f"{time:%H:%M}"
