"""evaluate: adapter + val rows -> comparison_report.json, evaluate.json, report.html"""

import argparse
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from mondrian.core.errors import EvaluationError, run
from mondrian.core.files import check_output_file, read_json, write_csv, write_json, write_text
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import read_rows
from mondrian.evaluation.answer_cache import delete_cache_file
from mondrian.evaluation.evaluate import EvalDataset, evaluate
from mondrian.evaluation.gates import check_gates
from mondrian.evaluation.report import comparison_page
from mondrian.evaluation.summary import format_metrics_summary
from mondrian.evaluation.verdict import build_metrics
from mondrian.model import vlm
from mondrian.model.adapter import adapts_merger
from mondrian.model.vision_cache import FeatureCache


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate base and adapter on the validation set.")
    alone = "--check" in sys.argv
    needed = not alone and not any(arg.startswith("--recompute_from") for arg in sys.argv)
    parser.add_argument("--lora_path", type=Path, required=needed)
    parser.add_argument("--val_data", type=Path, required=needed)
    parser.add_argument("--train_data", type=Path, help="what it was trained on, for examples")
    parser.add_argument("--output_report", type=Path, required=needed)
    parser.add_argument("--metrics", type=Path, required=not alone)
    parser.add_argument("--html", type=Path, help="report page")
    parser.add_argument(
        "--score_error_csv", type=Path, help="score error of the adapter by dimension"
    )
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"))
    parser.add_argument("--base", help="instead of base.source of params.yaml")
    parser.add_argument("--max_examples", type=int, help="only so many photographs: a quick look")
    parser.add_argument(
        "--recompute_from", type=Path, help="recompute metrics from an existing report"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a gate does not hold")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def check_paths(args: argparse.Namespace) -> None:
    """Raise EvaluationError or OSError before any work where outputs cannot be written."""
    if args.max_examples is not None and args.max_examples < 1:
        raise EvaluationError(f"--max_examples is {args.max_examples}; it must be 1 or more")
    outputs = [p for p in (args.output_report, args.metrics, args.html, args.score_error_csv) if p]
    outputs = [p for p in outputs if not (args.recompute_from and p == args.output_report)]
    inputs = [p for p in (args.recompute_from, args.val_data, args.train_data) if p]
    places = [path.resolve() for path in (*outputs, *inputs)]
    for path in outputs:
        if places.count(path.resolve()) > 1:
            raise EvaluationError(f"{path} is named twice; give every output a file of its own")
        check_output_file(path)


def answer_cache_path(args: argparse.Namespace) -> Path:
    """Where the answers of this evaluation are kept until it is done."""
    key = f"{args.lora_path.resolve()} {args.val_data.resolve()} {args.max_examples}"
    name = f"{args.lora_path.name}-{sha256(key.encode()).hexdigest()[:12]}.jsonl"
    return Path(args.cache_dir / "evaluate" / name)


def write_outputs(args: argparse.Namespace, report: Any, params: Params) -> str:
    """Numbers, plot and page of a report; what to say of it. Nothing is written unless all can be.

    Raises EvaluationError where it is no report of this version.
    """
    try:
        metric_values = build_metrics(report, params.evaluate)
        text = format_metrics_summary(report["advisor"], metric_values)
        page = comparison_page(report, metric_values) if args.html else ""
        errors = list((metric_values["fine_tuned"]["score_mae_by_dimension"] or {}).items())
    except (KeyError, TypeError, IndexError, ValueError, ArithmeticError, AttributeError) as error:
        if not args.recompute_from:
            raise
        raise EvaluationError(
            f"{args.recompute_from} is no report of this version "
            f"({type(error).__name__}: {error}); evaluate again: dvc repro"
        ) from None
    write_json(args.metrics, metric_values)
    if args.score_error_csv:
        write_csv(args.score_error_csv, ["dimension", "score_error"], errors)
    if args.html:
        write_text(args.html, page)
    return text


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    if args.check:
        check_gates(args.metrics, params, print)
        return
    check_paths(args)
    if args.recompute_from:
        print(write_outputs(args, read_json(args.recompute_from), params))
        return
    val = read_rows(args.val_data)[: args.max_examples]
    train = read_rows(args.train_data) if args.train_data else []
    base = vlm.load(args.base or params.base.source)
    limit = params.machine.feature_cache_gb
    features = FeatureCache(base, args.cache_dir / "features", limit, adapts_merger(args.lora_path))
    answers_path = answer_cache_path(args)
    report = evaluate(
        features, args.lora_path, EvalDataset(val, train), params.evaluate, answers_path
    )
    write_json(args.output_report, report)
    text = write_outputs(args, report, params)
    delete_cache_file(answers_path)
    print(text)


if __name__ == "__main__":
    run(main)
