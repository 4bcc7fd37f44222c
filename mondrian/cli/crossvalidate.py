"""mondrian crossvalidate: evaluate on all photos but test, by adapters not trained on them."""

import argparse
from pathlib import Path

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import ParamsError
from mondrian.core.params import load_params
from mondrian.critique.rows import read_train_and_val
from mondrian.evaluation.crossvalidation import CrossvalidationOutputs, write_crossvalidation
from mondrian.model import vlm
from mondrian.model.memory_limits import set_memory_limits

_FLAGS = ("train_data", "val_data", "output", "html")


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    if args.advisor not in (None, *params.advisors):
        known = ", ".join(params.advisors)
        raise ParamsError(f"--advisor is {args.advisor}; params.yaml has {known}")
    inputs = []
    paths = read_stage_flags("crossvalidate", _FLAGS, params)
    for advisor, files in zip(params.advisors, paths, strict=True):
        if args.advisor in (None, advisor):
            train_data, val_data, metrics, html = files
            train, val = read_train_and_val(train_data, val_data)
            outputs = CrossvalidationOutputs(metrics, html, args.cache_dir / "folds" / advisor)
            inputs.append(([*train, *val], outputs))
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(args.base or params.base.source)
    for rows, outputs in inputs:
        print(write_crossvalidation(base, params, rows, outputs, args.cache_dir))


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "crossvalidate",
        "mondrian crossvalidate --advisor ansel",
        "An adapter is trained for each fold of prepare.folds on the other folds: with 5 folds it\n"
        "takes about 5 times as long as training one and evaluating it. dvc repro does the same.\n"
        "Resumes if interrupted. Writes metrics/<advisor>/crossvalidation.json and .html.",
    )
    parser.add_argument("--advisor", help="one advisor of params.yaml; all if not given")
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument(
        "--cache_dir", type=path_name, default=Path(".cache"), help="unfinished folds"
    )
    add_params(parser)
    return parser.parse_args(argv)
