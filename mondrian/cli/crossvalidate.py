"""mondrian crossvalidate: every photo but those of test, judged by an adapter not trained on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ParamsError
from mondrian.core.files import write_json, write_text
from mondrian.core.params import load_params
from mondrian.critique.rows import read_train_and_val
from mondrian.evaluation.crossvalidation import crossvalidate
from mondrian.evaluation.report import comparison_page
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.verdict import build_metrics
from mondrian.model import vlm


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    if args.advisor is not None and args.advisor not in params.advisors:
        known = ", ".join(params.advisors)
        raise ParamsError(f"--advisor is {args.advisor}; params.yaml has {known}")
    data = read_stage_flags("train", ["train_data", "val_data"], params)
    metrics_paths = read_stage_flags("evaluate", ["metrics"], params)
    rows_and_folder = {
        advisor: (read_train_and_val(train, val), metric.parent)
        for advisor, (train, val), (metric,) in zip(
            params.advisors, data, metrics_paths, strict=True
        )
        if args.advisor in (None, advisor)
    }
    base = vlm.load(args.base or params.base.source)
    for advisor, ((rows, val), folder) in rows_and_folder.items():
        folds = args.cache_dir / "folds" / advisor
        report = crossvalidate(base, params, [*rows, *val], folds, args.cache_dir)
        metrics = build_metrics(report, params.evaluate)
        write_json(folder / "crossvalidation.json", metrics)
        write_text(folder / "crossvalidation.html", comparison_page(report, metrics))
        print(format_metrics_summary(advisor, metrics))


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "crossvalidate",
        "Train an adapter for each fold of prepare.folds on the other folds, and evaluate all of\n"
        "them together. Takes as many times as long as the pipeline; resumes where it stopped.\n"
        "Writes metrics/<advisor>/crossvalidation.json and .html.",
        "mondrian crossvalidate --advisor ansel",
    )
    parser.add_argument("--advisor", help="one advisor of params.yaml; all if not given")
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"), help="unfinished folds")
    add_params(parser)
    return parser.parse_args(argv)
