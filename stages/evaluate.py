"""evaluate: adapter + val rows -> comparison_report.json, evaluate.json, report.html"""

import argparse
import sys
from pathlib import Path

from mondrian import vlm
from mondrian.adapter import wants_raw
from mondrian.answers import forget
from mondrian.comparison import comparison_page
from mondrian.errors import run
from mondrian.evaluate import Data, evaluate
from mondrian.features import FeatureCache
from mondrian.files import read_json, write_csv, write_json, write_text
from mondrian.gates import check
from mondrian.params import load_params
from mondrian.rows import read_rows
from mondrian.verdict import metrics
from mondrian.verdict_text import summary


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hold base and adapter against val critiques.")
    alone = "--check" in sys.argv
    needed = not alone and not any(arg.startswith("--from_report") for arg in sys.argv)
    parser.add_argument("--lora_path", type=Path, required=needed)
    parser.add_argument("--val_data", type=Path, required=needed)
    parser.add_argument("--train_data", type=Path, help="what it was trained on, for examples")
    parser.add_argument("--output_report", type=Path, required=needed)
    parser.add_argument("--metrics", type=Path, required=not alone)
    parser.add_argument("--page", type=Path, help="the report for people")
    parser.add_argument("--plot", type=Path, help="the adapter's score error by dimension, CSV")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"))
    parser.add_argument("--base", help="instead of base.source of params.yaml")
    parser.add_argument("--max_examples", type=int, help="only so many photographs: a quick look")
    parser.add_argument("--from_report", type=Path, help="numbers anew from a report")
    parser.add_argument("--check", action="store_true", help="exit 1 where a gate does not hold")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    if args.check:
        check(args.metrics, params, print)
        return
    if args.from_report:
        report = read_json(args.from_report)
    else:
        val = read_rows(args.val_data)[: args.max_examples]
        train = read_rows(args.train_data) if args.train_data else []
        base = vlm.load(args.base or params.base.source)
        limit = params.machine.feature_cache_gb
        features = FeatureCache(base, args.cache_dir / "features", limit, wants_raw(args.lora_path))
        kept = args.cache_dir / "evaluate" / f"{args.lora_path.name}.jsonl"
        report = evaluate(features, args.lora_path, Data(val, train), params.evaluate, kept)
        write_json(args.output_report, report)
        forget(kept)
    found = metrics(report, params.evaluate)
    write_json(args.metrics, found)
    if args.plot:
        errors = found["fine_tuned"]["score_mae_by_dimension"] or {}
        write_csv(args.plot, ["dimension", "score_error"], list(errors.items()))
    if args.page:
        write_text(args.page, comparison_page(report, found))
    print(summary(report["advisor"], found))


if __name__ == "__main__":
    run(main)
