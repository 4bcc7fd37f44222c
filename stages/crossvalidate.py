"""crossvalidate: train and val rows -> crossvalidation.json and .html, if prepare.folds is set"""

import argparse
from pathlib import Path

from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import run_command
from mondrian.core.files import check_output_file
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import read_train_and_val
from mondrian.evaluation.headline import write_not_requested


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate on all photos but test, fold by fold.")
    parser.add_argument("--advisor", type=advisor_id, required=True)
    parser.add_argument("--train_data", type=Path, required=True)
    parser.add_argument("--val_data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="verdict and all metrics")
    parser.add_argument("--html", type=Path, required=True, help="report page")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"), help="unfinished folds")
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def crossvalidate(args: argparse.Namespace, params: Params) -> str:
    """Write the outputs of a requested cross-validation; return the summary."""
    from mondrian.evaluation.crossvalidation import CrossvalidationOutputs, write_crossvalidation
    from mondrian.model import vlm  # seconds, which a run without folds does not take
    from mondrian.model.memory_limits import set_memory_limits

    train, val = read_train_and_val(args.train_data, args.val_data)
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(args.base or params.base.source)
    folds = args.cache_dir / "folds" / args.advisor
    outputs = CrossvalidationOutputs(args.output, args.html, folds)
    return write_crossvalidation(base, params, [*train, *val], outputs, args.cache_dir)


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    for path in (args.output, args.html):
        check_output_file(path)
    if params.prepare.folds:
        print(crossvalidate(args, params))
    else:
        write_not_requested(args.advisor, args.output, args.html)
        print(f"crossvalidate {args.advisor}: not requested (prepare.folds is 0)")


if __name__ == "__main__":
    run_command(main)
