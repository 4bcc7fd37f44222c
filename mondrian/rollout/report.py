"""The report on a rollout as JSON, and its metrics as CSV.

The page, the command and the API all show this report and nothing else.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from io import StringIO
from math import isfinite
from typing import Any

import numpy as np

from mondrian.rollout.assessment import (
    Assessment,
    AssignmentCheck,
    assess,
    check_assignment,
    count_exposure,
)
from mondrian.rollout.confidence_sequences import MISMATCH_LEVEL, Interval
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import STATUS_MEANINGS, decide
from mondrian.rollout.metrics import METRICS, Metric, TimedBand, estimate_arm, estimate_difference
from mondrian.rollout.observations import Observation, load_observations
from mondrian.rollout.store import REPLACED, ROLLED_BACK, RolloutRecord, RolloutStore

SERIES_NAMES = ("candidate", "control", "difference")
MAX_POINTS = 100  # of a series; the newest is always included
CSV_COLUMNS = tuple("rollout advisor version time metric arm mean low high count".split())
RolloutReport = dict[str, Any]
Point = Sequence[Any]  # seconds since 1970, count, mean, low, high; None if unknown


def build_rollout_report(
    store: RolloutStore, config: RolloutConfig | None, record: RolloutRecord, now: float
) -> RolloutReport:
    """Return everything about a rollout.

    config  None if unknown: then there is no verdict, no limit and no step
    now     seconds since 1970
    """
    observations = load_observations(store.engine, record.id, record.evidence_from)
    live_jobs = [obs for obs in observations if not obs.is_shadow]
    resumed_at = store.last_action_at(record.id, "resume") or 0.0
    assignment = check_assignment(live_jobs, resumed_at)
    names = ("advisor", "version", "name", "control", "state", "reason", "revision")
    times = ("started_at", "evidence_from", "full_since")
    report: RolloutReport = {
        "rollout": record.id,
        **{name: getattr(record, name) for name in names},
        "created_at": iso_timestamp(now),
        **{name: iso_timestamp(getattr(record, name)) for name in times},
        "exposure": {
            "candidate": asdict(count_exposure(live_jobs, True)),
            "control": asdict(count_exposure(live_jobs, False)),
        },
        "assignment": _report_assignment(assignment),
        "metrics": [_report_metric(observations, metric) for metric in METRICS.values()],
        "decisions": [
            asdict(decision) | {"decided_at": iso_timestamp(decision.decided_at)}
            for decision in store.list_decisions(record.id)
        ],
        "verdict": None,
        "step": None,
        "steps": [],
        "guardrails": [],
        "success": None,
    }
    if config is not None:
        assessment = assess(observations, config, record.step, resumed_at)
        report |= _report_verdict(assessment, record, config, now)
        report |= _report_steps(assessment, record, config, now)
    return report


def iso_timestamp(seconds: float | None) -> str | None:
    """Return seconds since 1970 as ISO text in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _report_assignment(check: AssignmentCheck) -> RolloutReport:
    return asdict(check) | {
        "expected": round_or_none(check.expected),
        "actual": round_or_none(check.actual),
        "e_value": round_or_none(check.e_value),
        "alarm_from": round(1 / MISMATCH_LEVEL, 6),
    }


def _report_verdict(
    assessment: Assessment, record: RolloutRecord, config: RolloutConfig, now: float
) -> RolloutReport:
    verdict, success = decide(assessment, record, config, now), assessment.success
    metric = METRICS[success.metric]
    return {
        "verdict": asdict(verdict) | {"meaning": STATUS_MEANINGS[verdict.status]},
        "guardrails": [
            asdict(result)
            | {
                "estimate": interval_to_json(result.estimate),
                "control": interval_to_json(result.control),
            }
            for result in assessment.guardrails
        ],
        "success": asdict(success)
        | {
            "description": metric.description,
            "kind": metric.kind,
            "unit": metric.unit,
            "verdict": success.verdict,
            "difference": interval_to_json(success.difference),
            "paired": interval_to_json(success.paired),
        },
    }


def _report_steps(
    assessment: Assessment, record: RolloutRecord, config: RolloutConfig, now: float
) -> RolloutReport:
    index = min(record.step, len(config.steps) - 1)
    has_stopped, current = record.state in (ROLLED_BACK, REPLACED), config.steps[index]
    statuses = ["done"] * index + ["stopped" if has_stopped else "current"]
    statuses += ["upcoming"] * (len(config.steps) - len(statuses))
    return {
        "step": {
            "number": index + 1,
            "total": len(config.steps),
            "share": 0.0 if has_stopped else current.share,
            "started_at": iso_timestamp(record.step_started_at),
            "hours": round(max(0.0, now - record.step_started_at) / 3600, 2),
            "hours_required": current.hours,
            "jobs": assessment.step_jobs,
            "jobs_required": current.jobs,
            "requires": current.requires,
            "automatic": config.automatic,
        },
        "steps": [
            step.model_dump() | {"status": status}
            for step, status in zip(config.steps, statuses, strict=True)
        ],
    }


def _report_metric(observations: Sequence[Observation], metric: Metric) -> RolloutReport:
    bands = (
        estimate_arm(observations, metric, True),
        estimate_arm(observations, metric, False),
        estimate_difference(observations, metric),
    )
    names = ("name", "description", "kind", "better", "unit")
    return {name: getattr(metric, name) for name in names} | {
        name: {"estimate": interval_to_json(timed.band.last), "series": thin_series(timed)}
        for name, timed in zip(SERIES_NAMES, bands, strict=True)
    }


def interval_to_json(interval: Interval) -> RolloutReport:
    """Return an interval as JSON; unknown numbers are null."""
    numbers = {name: round_or_none(getattr(interval, name)) for name in ("mean", "low", "high")}
    return numbers | {"count": interval.count}


def thin_series(timed: TimedBand, max_points: int = MAX_POINTS) -> list[Point]:
    """Return at most `max_points` evenly spaced points of a band."""
    size = len(timed.times)
    indices = np.unique(np.linspace(0, size - 1, min(size, max_points)).round().astype(int))
    columns = (timed.band.mean, timed.band.low, timed.band.high)
    times = [round(float(timed.times[i]), 3) for i in indices]
    estimates = [[round_or_none(float(column[i])) for column in columns] for i in indices]
    points = zip(times, indices, estimates, strict=True)
    return [[time, int(i) + 1, *estimate] for time, i, estimate in points if isfinite(time)]


def round_or_none(value: float | None) -> float | None:
    """Return a number with six digits; None if it is unknown."""
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")


def render_csv(reports: Iterable[RolloutReport]) -> str:
    """Return the metrics as CSV: one row per point of each arm (docs/experiments.md)."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(row for report in reports for row in _csv_rows(report))
    return text.getvalue()


def _csv_rows(report: RolloutReport) -> Iterator[list[Any]]:
    candidate = [report["rollout"], report["advisor"], report["version"]]
    for metric in report["metrics"]:
        for series in SERIES_NAMES:
            for seconds, count, *estimate in metric[series]["series"]:
                time = iso_timestamp(seconds)
                yield [*candidate, time, metric["name"], series, *estimate, count]
