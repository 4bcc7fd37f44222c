"""The forest plot of an evaluation: each difference with its interval, on a labelled axis."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mondrian.core.axis import Axis, build_axis
from mondrian.evaluation.gates import REQUIRED_COMPARISONS
from mondrian.evaluation.summary import COMPARISON_LABELS, format_mean_interval

_INDEX_COMPARISONS = ("index", "manner", "judgement", "index_few_shot")


@dataclass(frozen=True)
class ForestRow:
    """A difference; above 0 the adapter is better.

    interval  low and high in percent of the axis; None if there are too few photos
    sign      above, below or open: where the interval is, seen from 0
    """

    label: str
    text: str
    mean: float
    interval: tuple[float, float] | None
    sign: str
    is_required: bool  # for the verdict BETTER
    is_dimension: bool


@dataclass(frozen=True)
class ForestPanel:
    """Rows of one unit above their axis."""

    axis: Axis
    rows: list[ForestRow]


def build_forest_plot(evaluation: Mapping[str, Any]) -> list[ForestPanel]:
    """Return a panel of the quality index, and one of score errors with those by dimension."""
    index: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name, estimate in evaluation["comparisons"].items():
        (index if name in _INDEX_COMPARISONS else errors)[name] = estimate
    return [
        _build_panel("gain in quality index, points of 100", index),
        _build_panel("reduction of score error, points of 10", errors | evaluation["dimensions"]),
    ]


def _build_panel(axis_label: str, estimates: Mapping[str, dict[str, Any]]) -> ForestPanel:
    axis = build_axis(_list_values(estimates.values()), axis_label)
    return ForestPanel(axis, [_build_row(axis, *item) for item in estimates.items()])


def _list_values(estimates: Iterable[Mapping[str, Any]]) -> list[float]:
    names = ("low", "mean", "high")
    return [e[name] for e in estimates for name in names if e[name] is not None]


def _build_row(axis: Axis, name: str, estimate: dict[str, Any]) -> ForestRow:
    low, high = estimate["low"], estimate["high"]
    interval, sign = None, "open"
    if low is not None and high is not None:
        interval = axis.percent(low), axis.percent(high)
        sign = "above" if low > 0 else "below" if high < 0 else "open"
    return ForestRow(
        COMPARISON_LABELS.get(name, name),
        format_mean_interval(estimate),
        axis.percent(estimate["mean"]),
        interval,
        sign,
        is_required=name in REQUIRED_COMPARISONS,
        is_dimension=name not in COMPARISON_LABELS,
    )
