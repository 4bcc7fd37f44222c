"""A report -> what its page draws: a bar for each guardrail, two charts for each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mondrian.rollout.charts import Chart, build_chart
from mondrian.rollout.formatting import percent
from mondrian.rollout.report import RolloutReport

_DIFFERENCE_HEIGHT = 130  # height of a chart of the difference


@dataclass(frozen=True)
class Bar:
    """A share on a scale from `start` to `end`: places in percent of its width."""

    start: str
    end: str
    left: float
    width: float
    mean: float
    limit: float


@dataclass(frozen=True)
class RolloutCharts:
    """Bars and charts by name; None where there is nothing to see."""

    bars: dict[str, Bar | None]
    arms: dict[str, Chart | None]
    differences: dict[str, Chart | None]

    @property
    def shown(self) -> list[str]:
        """Metrics of which there is a chart."""
        return [name for name, chart in self.arms.items() if chart]


def build_page_charts(report: RolloutReport) -> RolloutCharts:
    """Everything that the page of a roll-out draws."""
    since, until = _to_epoch(report["evidence_from"]), _to_epoch(report["at"])
    marks, metrics = _step_marks(report), report["metrics"]
    arms = {
        metric["name"]: build_chart(
            {arm: metric[arm]["series"] for arm in ("control", "candidate")},
            metric,
            since,
            until,
            marks=marks,
        )
        for metric in metrics
    }
    differences = {
        metric["name"]: build_chart(
            {"difference": metric["difference"]["series"]},
            metric,
            since,
            until,
            _DIFFERENCE_HEIGHT,
            _levels(report, metric),
            [(t, "") for t, _ in marks],
            signed=True,
        )
        for metric in metrics
    }
    return RolloutCharts(
        {guardrail["name"]: build_guardrail_bar(guardrail) for guardrail in report["guardrails"]},
        arms,
        differences,
    )


def build_guardrail_bar(guard: Mapping[str, Any]) -> Bar | None:
    """Where a guardrail's share, its interval and the limit are; None without data."""
    estimate, limit = guard["found"], guard["limit"]
    if not estimate["count"]:
        return None
    if guard["least"]:  # the top of the scale matters
        start, end = max(0.0, min(estimate["low"], limit) - 0.05), 1.0
    else:
        start, end = 0.0, min(1.0, max(estimate["high"], 2 * limit, 0.02))

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    left = place(estimate["low"])
    return Bar(
        percent(start),
        percent(end),
        left,
        round(place(estimate["high"]) - left, 2),
        place(estimate["mean"]),
        place(limit),
    )


def _step_marks(report: RolloutReport) -> list[tuple[float, str]]:
    """When which step began, and when it was rolled back."""
    marks = []
    for decision in report["decisions"]:
        if decision["action"] == "advance" and decision["step"] < len(report["steps"]):
            marks.append(
                (_to_epoch(decision["at"]), percent(report["steps"][decision["step"]]["share"]))
            )
        elif decision["state"] == "rolled back":
            marks.append((_to_epoch(decision["at"]), "back"))
    return marks


def _levels(report: RolloutReport, metric: Mapping[str, Any]) -> dict[str, float]:
    success = report["success"]
    if not success or success["metric"] != metric["name"] or not success["margin"]:
        return {"": 0.0}
    sign = -1 if metric["better"] == "high" else 1
    return {"": 0.0, "margin": sign * success["margin"]}


def _to_epoch(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
