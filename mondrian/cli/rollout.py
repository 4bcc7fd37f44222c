"""mondrian rollout: show or change the rollout of a new version, and report its metrics."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from mondrian.cli.parser import add_db, command_parser, path_name
from mondrian.core.errors import MondrianError
from mondrian.core.files import write_text
from mondrian.rollout.actions import MissingReasonError, apply_manual_action
from mondrian.rollout.config import RolloutConfig, load_rollout_config
from mondrian.rollout.formatting import percent
from mondrian.rollout.lookup import current_user, find_rollout, open_rollout_store, select_rollouts
from mondrian.rollout.report import RolloutReport, build_rollout_report, render_csv
from mondrian.rollout.store import ROLLED_BACK, Actor, RolloutRecord, RolloutStore
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
    config = load_rollout_config(args.rollout)
    with open_rollout_store(args.db) as store:
        records = select_rollouts(store, args.advisor, include_older=True)
        record = find_rollout(records, args.version)
        if args.action:
            print(_apply_action(store, config, record, args))
            return
        reports = _build_reports(store, config, [record] if args.version else records)
    colored = _is_color_terminal()
    print("\n\n".join(format_summary(report, colored) for report in reports))


def _apply_action(
    store: RolloutStore, config: RolloutConfig, record: RolloutRecord, args: argparse.Namespace
) -> str:
    try:
        actor = Actor(current_user(), args.reason)
        changed = apply_manual_action(store, config, record, args.action, actor)
    except MissingReasonError as error:
        raise MondrianError(f'{error}: --reason "…"') from None
    step = config.steps[min(changed.step, len(config.steps) - 1)]
    share = "no clients" if changed.state == ROLLED_BACK else f"{percent(step.share)} of clients"
    return (
        f"{changed.name} is {changed.state} at step {changed.step + 1} of {len(config.steps)} and "
        f"answers {share}; running services follow within two seconds"
    )


def _report(args: argparse.Namespace) -> None:
    config = load_rollout_config(args.rollout)
    with open_rollout_store(args.db) as store:
        records = select_rollouts(store, args.advisor, args.all)
        reports = _build_reports(store, config, records)
    if args.csv:
        text = render_csv(reports)
    elif args.json:
        text = json.dumps(reports, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        colored = not args.output and _is_color_terminal()
        text = f"\n{'─' * 100}\n\n".join(format_report(report, colored) for report in reports)
    if args.output:
        write_text(args.output, text)
    else:
        sys.stdout.write(text)


def _build_reports(
    store: RolloutStore, config: RolloutConfig, records: list[RolloutRecord]
) -> list[RolloutReport]:
    return [build_rollout_report(store, config, record, time.time()) for record in records]


def _is_color_terminal() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "rollout",
        "mondrian rollout ansel\n"
        'mondrian rollout ansel --hold --reason "guests this week"\n'
        "mondrian rollout report --advisor ansel",
        "`mondrian rollout report` shows every metric: see its --help.",
    )
    add = parser.add_argument
    add("advisor", help="advisor of the versions, such as ansel")
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
        "mondrian rollout report --advisor ansel\nmondrian rollout report --csv --output ab.csv",
        "Report exposure, metrics, guardrails and decisions of each candidate against its control.",
    )
    add = parser.add_argument
    add_db(parser)
    add("--advisor", default="", help="only this advisor")
    add("--all", action="store_true", help="rollouts of other versions too")
    _add_rollout(parser)
    format_group = parser.add_mutually_exclusive_group()
    format_group.add_argument("--json", action="store_true", help="everything, as JSON")
    format_group.add_argument("--csv", action="store_true", help="every metric over time")
    add("--output", type=path_name, help="write to a file instead of the terminal")
    return parser.parse_args(argv)


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    help_text = "steps and guardrails"
    parser.add_argument("--rollout", type=path_name, default=Path("rollout.yaml"), help=help_text)
