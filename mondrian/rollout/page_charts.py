"""A report -> what its page draws: a bar for each guardrail, two charts for each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mondrian.rollout.charts import Chart, draw
from mondrian.rollout.formatting import percent
from mondrian.rollout.report import Report

_LOW = 130  # height of a chart of the difference


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
class Picture:
    """Bars and charts by name; None where there is nothing to see."""

    bars: dict[str, Bar | None]
    arms: dict[str, Chart | None]
    differences: dict[str, Chart | None]

    @property
    def shown(self) -> list[str]:
        """Metrics of which there is a chart."""
        return [name for name, chart in self.arms.items() if chart]


def picture(told: Report) -> Picture:
    """Everything that the page of a roll-out draws."""
    since, until = _seconds(told["evidence_from"]), _seconds(told["at"])
    marks, metrics = _marks(told), told["metrics"]
    arms = {
        one["name"]: draw(
            {arm: one[arm]["series"] for arm in ("control", "candidate")}, one, since, until,
            marks=marks,
        )
        for one in metrics
    }  # fmt: skip
    differences = {
        one["name"]: draw(
            {"difference": one["difference"]["series"]}, one, since, until, _LOW,
            _levels(told, one), [(at, "") for at, _ in marks], signed=True,
        )
        for one in metrics
    }  # fmt: skip
    return Picture({one["name"]: bar(one) for one in told["guardrails"]}, arms, differences)


def bar(guard: Mapping[str, Any]) -> Bar | None:
    """Where a guardrail's share, its interval and the limit are; None without data."""
    found, limit = guard["found"], guard["limit"]
    if not found["count"]:
        return None
    if guard["least"]:  # the top of the scale matters
        start, end = max(0.0, min(found["low"], limit) - 0.05), 1.0
    else:
        start, end = 0.0, min(1.0, max(found["high"], 2 * limit, 0.02))

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    left = place(found["low"])
    return Bar(
        percent(start), percent(end), left, round(place(found["high"]) - left, 2),
        place(found["mean"]), place(limit),
    )  # fmt: skip


def _marks(told: Report) -> list[tuple[float, str]]:
    """When which step began, and when it was rolled back."""
    found = []
    for one in told["decisions"]:
        if one["action"] == "advance" and one["step"] < len(told["steps"]):
            found.append((_seconds(one["at"]), percent(told["steps"][one["step"]]["share"])))
        elif one["state"] == "rolled back":
            found.append((_seconds(one["at"]), "back"))
    return found


def _levels(told: Report, metric: Mapping[str, Any]) -> dict[str, float]:
    success = told["success"]
    if not success or success["metric"] != metric["name"] or not success["margin"]:
        return {"": 0.0}
    sign = -1 if metric["better"] == "high" else 1
    return {"": 0.0, "margin": sign * success["margin"]}


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
