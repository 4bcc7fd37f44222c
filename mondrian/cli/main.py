"""mondrian COMMAND …: everything beside the pipeline, which is `dvc repro`."""

from __future__ import annotations

import sys
from importlib import import_module

from mondrian.core.errors import MondrianError, run
from mondrian.core.validation import suggest_name

COMMANDS = {
    "serve": "start the advisor service: base, fine-tuned or A/B test",
    "summary": "show what the last dvc repro gave: data, training, scores, verdict",
    "crossvalidate": "evaluate on every photo, by an adapter that was not trained on it",
    "export": "write an adapter in mlx-vlm's layout, or merged into a copy of its base",
    "import-adapter": "import a PEFT adapter that was trained elsewhere",
    "list": "list versions, their stages and verdicts, and what serves here",
    "release": "make a version of the adapter that dvc repro built",
    "promote": "give a version a stage, such as prod",
    "pull": "download a version, verify it and activate it on this machine",
    "rollback": "activate the previous version again",
    "rollout": "show the rollout of a new version; advance, hold or roll it back",
    "preferences": "export pairs of a better and a worse critique, for DPO or ORPO",
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: mondrian COMMAND …, or mondrian COMMAND --help", "", *lines])


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name not in COMMANDS:
        raise MondrianError(
            f"mondrian has no command {name!r}{suggest_name(name, COMMANDS, 'it has')}"
        )
    import_module(f"mondrian.cli.{name.replace('-', '_')}").main(rest)


def entry() -> None:
    """Run the command `mondrian`."""
    run(main)
