"""mondrian rollout ADVISOR: see how its new version does; advance, hold, resume or roll it back."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from pathlib import Path

from mondrian.core.errors import MondrianError
from mondrian.rollout.config import RolloutConfig, load_rollout
from mondrian.rollout.formatting import percent
from mondrian.rollout.manual import MissingReason, apply_manual_action
from mondrian.rollout.open_database import connect_rollouts, find_rollout, select_rollouts
from mondrian.rollout.report import build_rollout_report
from mondrian.rollout.store import BACK, RolloutRecord, RolloutStore
from mondrian.rollout.terminal import format_summary

_FLAGS = {
    "advance": "let the next step begin",
    "hold": "stay at this step until you resume",
    "resume": "go on; what was rolled back begins anew",
    "back": "let it answer nobody",
}


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian rollout", description=__doc__)
    add = parser.add_argument
    add("advisor")
    add("--db", default="data/service/mondrian.db", help="SQLite file, or postgresql://…")
    add("--rollout", type=Path, default=Path("rollout.yaml"), help="steps and guardrails")
    add("--version", default="", help="a name such as ansel@v2.0.0, or a version's first letters")
    add("--because", default="", help="why, for the log; --back needs it, and to advance too early")
    doing = parser.add_mutually_exclusive_group()
    for flag, help_text in _FLAGS.items():
        action = "rollback" if flag == "back" else flag
        doing.add_argument(
            f"--{flag}", dest="action", action="store_const", const=action, help=help_text
        )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    settings = load_rollout(args.rollout)
    with connect_rollouts(args.db) as rollouts:
        entries = select_rollouts(rollouts, args.advisor, include_older=True)
        entry = find_rollout(entries, args.version)
        if args.action:
            sys.stdout.write(_apply_action(rollouts, settings, entry, args))
            return
        selected_entries = [entry] if args.version else entries
        summaries = [_format_rollout(rollouts, settings, item) for item in selected_entries]
    sys.stdout.write("\n\n".join(summaries) + "\n")


def _apply_action(
    rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord, args: argparse.Namespace
) -> str:
    """Do what is asked; what became of it."""
    try:
        new = apply_manual_action(
            rollouts, settings, entry, args.action, getpass.getuser(), args.because, time.time()
        )
    except MissingReason as error:
        raise MondrianError(f'{error}: --because "…"') from None
    step = settings.steps[min(new.step, len(settings.steps) - 1)]
    share = "answers nobody" if new.state == BACK else f"answers {percent(step.share)} of clients"
    return (
        f"{new.name} is {new.state} at step {new.step + 1} of {len(settings.steps)} and {share}; "
        "services that run follow within two seconds\n"
    )


def _format_rollout(rollouts: RolloutStore, settings: RolloutConfig, entry: RolloutRecord) -> str:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return format_summary(build_rollout_report(rollouts, settings, entry, time.time()), colored)
