"""evaluate: adapter + val rows -> comparison_report.json, metrics.json, report.html"""

import argparse
import json
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from mondrian.core.errors import EvaluationError, run_command
from mondrian.core.files import check_output_file, read_json, write_csv, write_json, write_text
from mondrian.core.params import Params, load_params
from mondrian.critique.rows import read_rows
from mondrian.evaluation.calibration import calibrate_report
from mondrian.evaluation.evaluate import EvalData, evaluate
from mondrian.evaluation.gates import check_gates
from mondrian.evaluation.headline import can_crossvalidate_report, read_crossvalidation
from mondrian.evaluation.key_metrics import build_key_metrics
from mondrian.evaluation.report import render_report
from mondrian.evaluation.summary import format_metrics_summary, list_score_errors
from mondrian.evaluation.timing import compute_timing, format_overhead_warning
from mondrian.evaluation.verdict import build_evaluation
from mondrian.model import vlm
from mondrian.model.adapter import adapts_merger
from mondrian.model.memory_limits import set_memory_limits
from mondrian.model.vision_cache import FeatureCache


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate base and adapter on the validation set.", allow_abbrev=False
    )
    check_only = "--check" in sys.argv
    full = not check_only and not any(arg.startswith("--recompute_from") for arg in sys.argv)
    add = parser.add_argument
    add("--lora_path", type=Path, required=full)
    add("--val_data", type=Path, required=full)
    add("--train_data", type=Path, help="the adapter's training rows, for few-shot examples")
    add("--crossvalidation", type=Path, help="verdict of stage crossvalidate, if it ran")
    add("--output_report", type=Path, required=full, help="every answer of every arm")
    add("--details", type=Path, required=not check_only, help="verdict, gates and all metrics")
    add("--timing", type=Path, help="speed of each arm")
    add("--metrics", type=Path, help="the key metrics, flat, for dvc metrics show")
    add("--html", type=Path, help="report page")
    add("--score_error_csv", type=Path, help="score error of base and adapter by dimension")
    add("--loss_csv", type=Path, help="loss of the adapter's training by step")
    add("--cache_dir", type=Path, default=Path(".cache"))
    add("--base", help="base to use instead of base.source of params.yaml")
    add("--max_examples", type=int, help="evaluate only the first photos, for a quick look")
    add("--recompute_from", type=Path, help="recompute metrics from an existing report")
    add("--check", action="store_true", help="exit with status 1 if a gate does not hold")
    add("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def check_paths(args: argparse.Namespace) -> None:
    """Raise EvaluationError or OSError before any work if outputs cannot be written."""
    if args.max_examples is not None and args.max_examples < 1:
        raise EvaluationError(f"--max_examples is {args.max_examples}; it must be 1 or more")
    if args.max_examples is not None and args.recompute_from:
        raise EvaluationError("--recompute_from uses every answer; leave out --max_examples")
    report = None if args.recompute_from else args.output_report
    plots = (args.score_error_csv, args.loss_csv)
    files = (report, args.details, args.timing, args.metrics, args.html, *plots)
    outputs = [path for path in files if path]
    data = (args.recompute_from, args.val_data, args.train_data, args.crossvalidation)
    inputs = [path for path in data if path]
    paths = [path.resolve() for path in (*outputs, *inputs)]
    for path in outputs:
        if paths.count(path.resolve()) > 1:
            raise EvaluationError(f"{path} is named twice; give every output its own file")
        check_output_file(path)


# what a report of another version, or a damaged one, may raise
_DAMAGE = (
    KeyError,
    TypeError,
    IndexError,
    ValueError,
    ArithmeticError,
    AttributeError,
    UndefinedError,
)


@dataclass(frozen=True)
class Outputs:
    """The contents of all output files, and the text for the terminal."""

    report: Any
    evaluation: dict[str, Any]
    timing: dict[str, Any]
    key_metrics: dict[str, Any]
    page: str
    score_errors: list[tuple[str, str, float]]
    losses: list[tuple[int, str, float]]
    summary: str


def build_outputs(
    report: Any, params: Params, crossvalidation: dict[str, Any] | None, with_page: bool
) -> Outputs:
    """Calibrate the scores of a report, and compute metrics, verdict, plots and page."""
    report = calibrate_report(report, params.evaluate.calibrate)
    gates = params.evaluate.gates
    evaluation = build_evaluation(report, params.evaluate)
    is_imported = report["adapter"]["recipe"].get("train", {}).get("imported")
    evaluation["crossvalidation"] = None if is_imported else crossvalidation
    timing = compute_timing(report, gates.overhead)
    key_metrics = build_key_metrics(report, evaluation, gates)
    json.dumps([evaluation, timing, key_metrics], allow_nan=False)
    suggests_folds = can_crossvalidate_report(report)
    summary = format_metrics_summary(report["advisor"], evaluation, suggests_folds)
    if warning := format_overhead_warning(timing):
        summary += f"\n  {warning}"
    return Outputs(
        report,
        evaluation,
        timing,
        key_metrics,
        render_report(report, evaluation, timing) if with_page else "",
        list_score_errors(evaluation),
        [(int(n), str(c), float(v)) for n, c, v in report["adapter"]["loss_points"]],
        summary,
    )


def write_outputs(args: argparse.Namespace, report: Any, params: Params) -> str:
    """Write report, metrics, plots and page, all or nothing, and return the summary.

    Raises EvaluationError if the report is not one of this version.
    """
    crossvalidation = read_crossvalidation(args.crossvalidation)  # of adapters trained here
    try:
        outputs = build_outputs(report, params, crossvalidation, with_page=bool(args.html))
    except _DAMAGE as error:
        if not args.recompute_from:
            raise
        raise EvaluationError(
            f"{args.recompute_from} is not a report of this version "
            f"({type(error).__name__}: {error}); evaluate again: dvc repro"
        ) from None
    contents = {
        None if args.recompute_from else args.output_report: outputs.report,
        args.details: outputs.evaluation,
        args.timing: outputs.timing,
        args.metrics: outputs.key_metrics,
    }
    for path, content in contents.items():
        if path:
            write_json(path, content)
    if args.score_error_csv:
        columns = ("dimension", "arm", "score_error")
        write_csv(args.score_error_csv, columns, outputs.score_errors)
    if args.loss_csv:
        write_csv(args.loss_csv, ("step", "curve", "loss"), outputs.losses)
    if args.html:
        write_text(args.html, outputs.page)
    return outputs.summary


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    if args.check:
        check_gates(args.details, params, print)
        return
    check_paths(args)
    if args.recompute_from:
        print(write_outputs(args, read_json(args.recompute_from), params))
        return
    val = read_rows(args.val_data)[: args.max_examples]
    train = read_rows(args.train_data) if args.train_data else []
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(args.base or params.base.source)
    max_gb, with_pre_merger = params.machine.feature_cache_gb, adapts_merger(args.lora_path)
    features = FeatureCache(base, args.cache_dir / "features", max_gb, with_pre_merger)
    key = f"{args.lora_path.resolve()} {args.val_data.resolve()} {args.max_examples}"
    name = f"{args.lora_path.name}-{sha256(key.encode()).hexdigest()[:12]}.jsonl"
    answers = args.cache_dir / "evaluate" / name  # for resuming
    report = evaluate(features, args.lora_path, EvalData(val, train), params.evaluate, answers)
    summary = write_outputs(args, report, params)
    answers.unlink(missing_ok=True)
    print(summary)


if __name__ == "__main__":
    run_command(main)
