"""Reports -> one long table: a row for each look at each metric of each arm."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any

from mondrian.rollout.report import Report, moment
from mondrian.rollout.time_series import ARMS

COLUMNS = ("rollout", "advisor", "version", "time", "metric", "arm", "mean", "low", "high",
           "count")  # fmt: skip


def table(reports: Iterable[Report]) -> str:
    """CSV with a header; docs/experiments.md says what each column means."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for told in reports for row in _rows(told))
    return text.getvalue()


def _rows(told: Report) -> Iterator[list[Any]]:
    of = [told["rollout"], told["advisor"], told["version"]]
    for metric in told["metrics"]:
        for arm in ARMS:
            for when, count, *estimate in metric[arm]["series"]:
                yield [*of, moment(when), metric["name"], arm, *estimate, count]
