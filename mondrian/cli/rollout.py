"""mondrian rollout: the rollout of a new version, and its report."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import time
from pathlib import Path

from mondrian.cli.parser import add_db, command_parser
from mondrian.core.errors import MondrianError
from mondrian.core.files import write_text
from mondrian.rollout.actions import MissingReason, apply_manual_action
from mondrian.rollout.config import RolloutConfig, load_rollout
from mondrian.rollout.formatting import percent
from mondrian.rollout.report import RolloutReport, build_rollout_report, render_csv
from mondrian.rollout.store import (
    BACK,
    Actor,
    RolloutRecord,
    RolloutStore,
    connect_rollouts,
    find_rollout,
    select_rollouts,
)
from mondrian.rollout.terminal import format_report, format_summary

_ACTIONS = {
    "advance": "start the next step",
    "hold": "stay at this step until --resume",
    "resume": "continue; a rollout that was rolled back starts again",
    "rollback": "stop serving this version",
}


def main(argv: list[str]) -> None:
    if argv[:1] == ["report"]:
        _report(parse_report_args(argv[1:]))
        return
    args = parse_args(argv)
    settings = load_rollout(args.rollout)
    with connect_rollouts(args.db) as rollouts:
        entries = select_rollouts(rollouts, args.advisor, include_older=True)
        entry = find_rollout(entries, args.version)
        if args.action:
            print(_apply_action(rollouts, settings, entry, args))
            return
        reports = [
            build_rollout_report(rollouts, settings, item, time.time())
            for item in ([entry] if args.version else entries)
        ]
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n\n".join(format_summary(report, colored) for report in reports))


def _apply_action(
    rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord, args: argparse.Namespace
) -> str:
    try:
        actor = Actor(getpass.getuser(), args.reason)
        new = apply_manual_action(rollouts, settings, entry, args.action, actor)
    except MissingReason as error:
        raise MondrianError(f'{error}: --reason "…"') from None
    step = settings.steps[min(new.step, len(settings.steps) - 1)]
    share = "answers nobody" if new.state == BACK else f"answers {percent(step.share)} of clients"
    return (
        f"{new.name} is {new.state} at step {new.step + 1} of {len(settings.steps)} and {share}; "
        "running services follow within two seconds"
    )


def _report(args: argparse.Namespace) -> None:
    settings = load_rollout(args.rollout)
    with connect_rollouts(args.db) as rollouts:
        reports = [
            build_rollout_report(rollouts, settings, entry, time.time())
            for entry in select_rollouts(rollouts, args.advisor, args.all)
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
    return f"\n{'─' * 100}\n\n".join(format_report(report, colored) for report in reports)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "rollout",
        "Show the rollouts of an advisor's versions, or change one by hand.\n"
        "`mondrian rollout report` shows every metric: see its --help.",
        "mondrian rollout ansel\n"
        'mondrian rollout ansel --hold --reason "guests this week"\n'
        "mondrian rollout report --advisor ansel",
    )
    add = parser.add_argument
    add("advisor")
    add_db(parser)
    _add_rollout(parser)
    add("--version", default="", help="ansel@v2.0.0, or the first letters of a version")
    add("--reason", default="", help="for the log; needed to roll back or to advance early")
    actions = parser.add_mutually_exclusive_group()
    for name, text in _ACTIONS.items():
        actions.add_argument(
            f"--{name}", dest="action", action="store_const", const=name, help=text
        )
    return parser.parse_args(argv)


def parse_report_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "rollout report",
        "Report exposure, metrics, guardrails and decisions of each candidate against its control.",
        "mondrian rollout report --advisor ansel\nmondrian rollout report --csv --output ab.csv",
    )
    add = parser.add_argument
    add_db(parser)
    add("--advisor", default="", help="only this advisor")
    add("--all", action="store_true", help="rollouts of older versions too")
    _add_rollout(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--csv", action="store_true", help="every metric over time, one row a look")
    add("--output", type=Path, help="write to a file instead of the terminal")
    return parser.parse_args(argv)


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rollout", type=Path, default=Path("rollout.yaml"), help="steps and guardrails"
    )
