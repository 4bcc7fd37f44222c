"""mondrian crossvalidate: evaluate on all photos but test, by adapters not trained on them."""

import argparse
from pathlib import Path

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ParamsError
from mondrian.core.files import write_json, write_text
from mondrian.core.params import load_params
from mondrian.critique.rows import read_train_and_val
from mondrian.evaluation.crossvalidation import crossvalidate
from mondrian.evaluation.report import render_report
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.timing import compute_timing
from mondrian.evaluation.verdict import build_evaluation
from mondrian.model import vlm
from mondrian.model.memory_limits import set_memory_limits


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    if args.advisor not in (None, *params.advisors):
        known = ", ".join(params.advisors)
        raise ParamsError(f"--advisor is {args.advisor}; params.yaml has {known}")
    data_paths = read_stage_flags("train", ["train_data", "val_data"], params)
    details_paths = read_stage_flags("evaluate", ["details"], params)
    inputs = {}
    for advisor, files, (path,) in zip(params.advisors, data_paths, details_paths, strict=True):
        if args.advisor in (None, advisor):
            train_rows, val_rows = read_train_and_val(*files)
            inputs[advisor] = [*train_rows, *val_rows], path.parent
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(args.base or params.base.source)
    for advisor, (rows, folder) in inputs.items():
        folds_folder = args.cache_dir / "folds" / advisor
        report = crossvalidate(base, params, rows, folds_folder, args.cache_dir)
        evaluation = build_evaluation(report, params.evaluate)
        timing = compute_timing(report, params.evaluate.gates.overhead)
        write_json(folder / "crossvalidation.json", evaluation)
        write_text(folder / "crossvalidation.html", render_report(report, evaluation, timing))
        print(format_metrics_summary(advisor, evaluation))


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "crossvalidate",
        "mondrian crossvalidate --advisor ansel",
        "An adapter is trained for each fold of prepare.folds on the other folds, which takes as\n"
        "many times as long as the pipeline. Resumes if interrupted.\n"
        "Writes metrics/<advisor>/crossvalidation.json and .html.",
    )
    parser.add_argument("--advisor", help="one advisor of params.yaml; all if not given")
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"), help="unfinished folds")
    add_params(parser)
    return parser.parse_args(argv)
