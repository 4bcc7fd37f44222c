"""mondrian rollout ADVISOR: see how its new version does; advance, hold, resume or roll it back."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from pathlib import Path

from mondrian.core.errors import MondrianError
from mondrian.rollout.config import Rollout, load_rollout
from mondrian.rollout.formatting import percent
from mondrian.rollout.manual import NoReason, by_hand
from mondrian.rollout.open_database import chosen, reading, version_of
from mondrian.rollout.report import report
from mondrian.rollout.store import BACK, Entry, Rollouts
from mondrian.rollout.terminal import in_short

_FLAGS = {
    "advance": "let the next step begin", "hold": "stay at this step until you resume",
    "resume": "go on; what was rolled back begins anew", "back": "let it answer nobody",
}  # fmt: skip


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian rollout", description=__doc__)
    add = parser.add_argument
    add("advisor")
    add("--db", default="data/service/mondrian.db", help="SQLite file, or postgresql://…")
    add("--rollout", type=Path, default=Path("rollout.yaml"), help="steps and guardrails")
    add("--version", default="", help="a name such as ansel@v2.0.0, or a version's first letters")
    add("--because", default="", help="why, for the log; --back needs it, and to advance too early")
    doing = parser.add_mutually_exclusive_group()
    for flag, told in _FLAGS.items():
        action = "rollback" if flag == "back" else flag
        doing.add_argument(
            f"--{flag}", dest="action", action="store_const", const=action, help=told
        )
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    settings = load_rollout(args.rollout)
    with reading(args.db) as rollouts:
        entries = chosen(rollouts, args.advisor, every=True)
        entry = version_of(entries, args.version)
        if args.action:
            sys.stdout.write(_done(rollouts, settings, entry, args))
            return
        shown = [entry] if args.version else entries
        told = [_short(rollouts, settings, one) for one in shown]
    sys.stdout.write("\n\n".join(told) + "\n")


def _done(rollouts: Rollouts, settings: Rollout, entry: Entry, args: argparse.Namespace) -> str:
    """Do what is asked; what became of it."""
    try:
        new = by_hand(
            rollouts, settings, entry, args.action, getpass.getuser(), args.because, time.time()
        )
    except NoReason as error:
        raise MondrianError(f'{error}: --because "…"') from None
    step = settings.steps[min(new.step, len(settings.steps) - 1)]
    share = "answers nobody" if new.state == BACK else f"answers {percent(step.share)} of clients"
    return (
        f"{new.name} is {new.state} at step {new.step + 1} of {len(settings.steps)} and {share}; "
        "services that run follow within two seconds\n"
    )


def _short(rollouts: Rollouts, settings: Rollout, entry: Entry) -> str:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return in_short(report(rollouts, settings, entry, time.time()), colored)
