"""Reports -> one long table: a row for each look at each metric of each arm."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any

from mondrian.rollout.report import RolloutReport, iso_timestamp
from mondrian.rollout.time_series import ARMS

CSV_COLUMNS = (
    "rollout",
    "advisor",
    "version",
    "time",
    "metric",
    "arm",
    "mean",
    "low",
    "high",
    "count",
)


def render_csv(reports: Iterable[RolloutReport]) -> str:
    """CSV with a header; docs/experiments.md says what each column means."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(row for report in reports for row in _rows(report))
    return text.getvalue()


def _rows(report: RolloutReport) -> Iterator[list[Any]]:
    of = [report["rollout"], report["advisor"], report["version"]]
    for metric in report["metrics"]:
        for arm in ARMS:
            for when, count, *estimate in metric[arm]["series"]:
                yield [*of, iso_timestamp(when), metric["name"], arm, *estimate, count]
