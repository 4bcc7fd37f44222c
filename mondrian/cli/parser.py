"""The argument parser of all commands: defaults are shown, and an example ends each help page."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import indent


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, False, "", [])
        return super()._get_help_string(action) if has_default else action.help


def command_parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return the parser of `mondrian COMMAND`; `example` is one or more shell commands."""
    return argparse.ArgumentParser(
        prog=f"mondrian {command}",
        description=description,
        epilog=f"example:\n{indent(example, '  ')}",
        formatter_class=_HelpFormatter,
    )


def add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings")


def add_serving_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--serving_dir", type=Path, default=Path("models/serving"), help="versions on this machine"
    )


def add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db", default="data/service/mondrian.db", help="SQLite file or postgresql:// URL"
    )
