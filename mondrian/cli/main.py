"""mondrian NAME …: versions, roll-out and feedback. The pipeline itself is `dvc repro`."""

from __future__ import annotations

import sys
from importlib import import_module

from mondrian.core.errors import MondrianError, run
from mondrian.core.validation import suggest_name

COMMANDS = {
    "release": "make a version of the adapter that dvc repro built",
    "promote": "give a version a stage, such as prod",
    "releases": "list versions, their stages and verdicts, and what serves here",
    "pull": "fetch a version to this machine, check it and put it to use",
    "rollback": "put the version before to use again",
    "rollout": "see how a new version does; advance it, hold it, roll it back",
    "ab": "report of the A/B test, for people, as CSV or as JSON",
    "preferences": "pairs of a better and a worse critique, for DPO or ORPO",
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: mondrian COMMAND …, or mondrian COMMAND --help", "", *lines])


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(_usage() + "\n")
        return
    if name not in COMMANDS:
        raise MondrianError(
            f"mondrian has no command {name!r}{suggest_name(name, COMMANDS, 'it has')}"
        )
    import_module(f"mondrian.cli.{name}").main(rest)


def entry() -> None:
    """What the command `mondrian` calls."""
    run(main)


if __name__ == "__main__":
    entry()
