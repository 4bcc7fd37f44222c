"""Every photograph but those of test judged by an adapter that was not trained on it.

    python -m mondrian.evaluation.crossvalidation [--advisor NAME]

Trains an adapter for each fold of `prepare.folds` on the other folds, which takes so many times as
long as the pipeline; the verdict then rests on all photographs, not on val alone. Writes
metrics/<advisor>/crossvalidation.json and .html. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import DataError, ParamsError, run
from mondrian.core.files import write_json, write_text
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import ChatRow, read_train_and_val
from mondrian.evaluation.report import comparison_page
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.train_and_evaluate import train_and_evaluate
from mondrian.evaluation.verdict import build_metrics
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


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mondrian.evaluation.crossvalidation")
    parser.add_argument("--advisor", help="one of params.yaml; all without it")
    parser.add_argument("--base", help="instead of base.source of params.yaml")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = _parse_args()
    params = load_params(args.params)
    if args.advisor is not None and args.advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ParamsError(f"--advisor is {args.advisor}; params.yaml has {known}")
    data = read_stage_flags("train", ["train_data", "val_data"], params)
    metrics_paths = read_stage_flags("evaluate", ["metrics"], params)
    chosen = {
        advisor: (read_train_and_val(train, val), metric.parent)
        for advisor, (train, val), (metric,) in zip(
            params.advisors, data, metrics_paths, strict=True
        )
        if args.advisor in (None, advisor)
    }
    base = vlm.load(args.base or params.base.source)
    for advisor, ((rows, val), out) in chosen.items():
        folder = args.cache_dir / "folds" / advisor
        report = crossvalidate(base, params, [*rows, *val], folder, args.cache_dir)
        advisor_metrics = build_metrics(report, params.evaluate)
        write_json(out / f"{NAME}.json", advisor_metrics)
        write_text(out / f"{NAME}.html", comparison_page(report, advisor_metrics))
        print(format_metrics_summary(advisor, advisor_metrics))


if __name__ == "__main__":
    run(main)
