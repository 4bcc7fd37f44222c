"""mondrian promote: give a version a stage."""

from __future__ import annotations

import argparse

from mondrian.cli.parser import command_parser
from mondrian.registry.promote import promote
from mondrian.registry.version import parse_version


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    tag = promote(args.advisor, args.version, args.stage)
    what = f"{args.advisor} {parse_version(args.version)} is {args.stage}"
    print(f"{what}; next:\n  git push origin '{tag}'" if tag else f"{what} already")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "promote",
        "Give a version a stage; `mondrian pull --stage` installs the version that has it.",
        "mondrian promote ansel --version v2 --stage prod",
    )
    parser.add_argument("advisor")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; must exist")
    parser.add_argument("--stage", required=True, help="prod, or any other name")
    return parser.parse_args(argv)
