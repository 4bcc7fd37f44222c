"""evaluate: adapter + val rows -> metrics/<advisor>/comparison_report.json, evaluate.json"""

import argparse
from pathlib import Path

from mondrian import vlm
from mondrian.adapter import wants_raw
from mondrian.errors import run
from mondrian.evaluate import evaluate, metrics, summary
from mondrian.features import FeatureCache
from mondrian.files import write_json
from mondrian.params import load_params
from mondrian.rows import read_rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Hold base and adapter against val critiques.")
    parser.add_argument("--lora_path", type=Path, required=True)
    parser.add_argument("--val_data", type=Path, required=True)
    parser.add_argument("--output_report", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"))
    parser.add_argument("--base", help="instead of base.source of params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    rows = read_rows(args.val_data)
    base = vlm.load(args.base or params.base.source)
    limit = params.machine.feature_cache_gb
    features = FeatureCache(base, args.cache_dir / "features", limit, wants_raw(args.lora_path))
    report = evaluate(features, args.lora_path, rows, params.evaluate)
    found = metrics(report)
    write_json(args.output_report, report)
    write_json(args.metrics, found)
    print(summary(report["advisor"], found))


if __name__ == "__main__":
    run(main)
