"""prepare: data/linked/<advisor>/ -> data/prepared/<advisor>/, prepare.json, split_report.html"""

import argparse
from pathlib import Path

from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import DataError, run_command
from mondrian.core.files import write_json, write_text
from mondrian.core.params import load_params
from mondrian.data.manifest import Manifest
from mondrian.data.prepare import check_advisor, check_any_pair, format_split_summary, write_split
from mondrian.data.quality.score_variation import check_score_variation
from mondrian.data.report.split_report import SPLIT_REPORT_FILE, render_split_report
from mondrian.data.split import split_records
from mondrian.data.split_check import check_split_sizes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Split linked critiques and write chat rows.")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--advisor", type=advisor_id, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument(
        "--report", type=Path, help=f"default: {SPLIT_REPORT_FILE} next to the metrics"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    persona = params.persona(args.advisor)
    manifest = Manifest(args.manifest)
    check_advisor(manifest, args.advisor)
    check_any_pair(manifest, args.metrics.parent)
    result = split_records(manifest.records(), params.prepare)
    report = args.report or args.metrics.parent / SPLIT_REPORT_FILE
    refused_report = report.with_name(f"refused_{report.name}")  # DVC does not know it
    try:
        check_split_sizes(args.advisor, result, params.prepare)
        warning = check_score_variation(args.advisor, manifest.records())
    except DataError as error:
        write_text(refused_report, render_split_report(manifest, result, str(error)))
        raise DataError(f"{error}; {refused_report} shows the counts") from None
    refused_report.unlink(missing_ok=True)
    write_split(manifest, result, persona, params.image, args.output_dir)
    write_json(args.metrics, result.counts())
    write_text(report, render_split_report(manifest, result))
    print(format_split_summary(result, args.advisor))
    if warning:
        print(warning)


if __name__ == "__main__":
    run_command(main)
