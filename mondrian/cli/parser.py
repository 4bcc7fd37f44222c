"""Names, descriptions and argument parsers of the commands; help shows defaults and an example."""

import argparse
from pathlib import Path
from textwrap import indent

COMMANDS = {
    "init": "write the settings for a base and for your database or list into params.yaml",
    "doctor": "check this machine; print a table to paste into an issue",
    "check": "check params.yaml and the data that it names, before dvc repro",
    "suggest": "suggest photos of a folder to critique next: unlike those that are critiqued",
    "label": "write critiques of your photos on a page, into a list that link reads",
    "judge": "compare the critiques of base and adapter blind, and count your votes",
    "critique": "critique your photos: a table, a contact sheet, XMP sidecars",
    "serve": "start the advisor service: base, fine-tuned or A/B test",
    "summary": "show the results of the last dvc repro: data, training, scores, verdict",
    "crossvalidate": "train one adapter per fold and evaluate it on the photos it did not see",
    "export": "write an adapter in mlx-vlm's layout, or merged into a copy of its base",
    "import-adapter": "import a PEFT adapter that was trained elsewhere",
    "list": "list released versions with verdict and stage, and the one active here",
    "release": "tag the adapter of the last dvc repro as a version, if its gates pass",
    "promote": "mark a version as prod, or another deployment stage",
    "pull": "download a version, verify it and activate it on this machine",
    "rollback": "activate the previous version",
    "rollout": "show the rollout of a new version; advance, hold or roll it back",
    "ab": "show the outcome of the service's A/B test: ratings and blind votes by arm",
    "preferences": "export pairs of a better and a worse critique, for another trainer",
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, False, "", [])
        return super()._get_help_string(action) if has_default else action.help


def command_parser(command: str, example: str, details: str = "") -> argparse.ArgumentParser:
    """Return the parser of `mondrian COMMAND`; `example` is one or more shell commands."""
    summary = COMMANDS.get(command)
    first_line = f"{summary[0].upper()}{summary[1:]}.\n" if summary else ""
    return argparse.ArgumentParser(
        prog=f"mondrian {command}",
        description=first_line + details,
        epilog=f"example:\n{indent(example, '  ')}",
        formatter_class=_HelpFormatter,
    )


def path_name(text: str) -> Path:
    """Return a path; an empty one, of a shell variable that is not set, would mean this folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a file or a folder, . for this one")
    return Path(text)


def add_params(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=path_name, default=Path("params.yaml"), help="settings")


def add_serving_dir(parser: argparse.ArgumentParser) -> None:
    help_text = "versions on this machine"
    default = Path("models/serving")
    parser.add_argument("--serving_dir", type=path_name, default=default, help=help_text)


def add_db(parser: argparse.ArgumentParser) -> None:
    help_text = "SQLite file or postgresql:// URL"
    parser.add_argument("--db", default="data/service/mondrian.db", help=help_text)


def add_local_page(parser: argparse.ArgumentParser, port: int) -> None:
    parser.add_argument("--port", type=int, default=port, help="of the page; 0 for any free one")
    browser_help = "print the address of the page, do not open it"
    parser.add_argument("--no-browser", action="store_true", help=browser_help)
