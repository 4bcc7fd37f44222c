"""mondrian ab report: how each candidate does against what served before."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from mondrian.core.files import write_text
from mondrian.rollout.config import load_rollout
from mondrian.rollout.csv_export import render_csv
from mondrian.rollout.open_database import connect_rollouts, select_rollouts
from mondrian.rollout.report import RolloutReport, build_rollout_report
from mondrian.rollout.terminal import format_report


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian ab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="report")
    report_parser = commands.add_parser(
        "report", help="exposure, metrics, guardrails and decisions"
    )
    add = report_parser.add_argument
    add("--db", default="data/service/mondrian.db", help="SQLite file, or postgresql://…")
    add("--advisor", default="", help="of this one alone")
    add("--all", action="store_true", help="also the roll-outs of older versions")
    add("--rollout", type=Path, default=Path("rollout.yaml"), help="steps and guardrails")
    shape = report_parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="everything, for programs")
    shape.add_argument("--csv", action="store_true", help="every metric over time, a row a look")
    add("--output", type=Path, help="a file in place of the terminal")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    settings = load_rollout(args.rollout)
    with connect_rollouts(args.db) as rollouts:
        entries = select_rollouts(rollouts, args.advisor, args.all)
        reports = [
            build_rollout_report(rollouts, settings, entry, time.time()) for entry in entries
        ]
    text = _format_reports(reports, args)
    if args.output:
        write_text(args.output, text)
    else:
        sys.stdout.write(text)


def _format_reports(reports: list[RolloutReport], args: argparse.Namespace) -> str:
    if args.csv:
        return render_csv(reports)
    if args.json:
        return json.dumps(reports, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    colored = not args.output and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\n{'─' * 100}\n\n".join(
        format_report(rollout_report, colored) for rollout_report in reports
    )
