"""mondrian COMMAND …: everything except the pipeline, which is `dvc repro`."""

import sys
from importlib import import_module

from mondrian.cli.parser import COMMANDS
from mondrian.core.errors import MondrianError, run_command
from mondrian.core.validation import suggest_name


def main() -> None:
    name, *args = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()]
        print("\n".join(["usage: mondrian COMMAND …, or mondrian COMMAND --help", "", *lines]))
        return
    if name not in COMMANDS:
        suggestion = suggest_name(name, COMMANDS, "it has")
        raise MondrianError(f"mondrian has no command {name!r}{suggestion}")
    import_module(f"mondrian.cli.{name.replace('-', '_')}").main(args)


def entry() -> None:
    run_command(main)
