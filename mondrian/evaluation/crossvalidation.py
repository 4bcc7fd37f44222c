"""Every photograph but those of test judged by an adapter that was not trained on it.

    python -m mondrian.evaluation.crossvalidation [--advisor NAME]

Trains an adapter for each fold of `prepare.folds` on the other folds, which takes so many times as
long as the pipeline; the verdict then rests on all photographs, not on val alone. Writes
metrics/<advisor>/crossvalidation.json and .html. Goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.evaluation.train_and_evaluate import train_and_evaluate
from mondrian.model import vlm

NAME = "crossvalidation"


def crossvalidate(
    base: vlm.Vlm, params: Params, rows: Sequence[ChatRow], folder: Path, cache: Path
) -> dict[str, Any]:
    """One report of all rows, each answered by the adapter of its fold.

    The last weights are kept, not those that are best on the rows that judge.

    Raises DataError where the rows were not dealt into folds.
    """
    folds = sorted({row.fold for row in rows if row.fold is not None})
    if len(folds) < 2 or any(row.fold is None for row in rows):
        raise DataError(
            "the rows were not dealt into folds; set prepare.folds to 5 in params.yaml and prepare "
            "again: dvc repro prepare"
        )
    last = params.train.model_copy(update={"save_weights": "last", "early_stopping_patience": 0})
    params = params.model_copy(update={"train": last})
    reports = []
    for fold in folds:
        print(f"fold {fold + 1} of {len(folds)}", flush=True)
        others = [row for row in rows if row.fold != fold]
        held_out = [row for row in rows if row.fold == fold]
        reports.append(
            train_and_evaluate(base, params, others, held_out, folder / str(fold), cache)
        )
    return merge_reports(reports)


def merge_reports(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of several, with the medians of their costs, and the first one's adapter.

    Each photograph remembers what a constant would have said of it.
    """
    photographs = [
        row | {"train_score_means": report["train_score_means"]}
        for report in reports
        for row in report["photographs"]
    ]
    cost = {
        arm: {name: median(r["cost"][arm][name] for r in reports) for name in arm_cost}
        for arm, arm_cost in reports[0]["cost"].items()
    }
    return reports[0] | {"photographs": photographs, "cost": cost, "folds": len(reports)}
