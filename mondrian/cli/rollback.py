"""mondrian rollback: activate the version that served before."""

from __future__ import annotations

import argparse

from mondrian.cli.parser import add_serving_dir, command_parser
from mondrian.registry.local_store import Shelf
from mondrian.registry.rollback import roll_back


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    done = roll_back(Shelf(args.serving_dir / args.advisor, args.advisor))
    print(f"{args.advisor}@{done.version} serves again, instead of {done.replaced_version}")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "rollback", "Activate the version that served before.", "mondrian rollback ansel"
    )
    parser.add_argument("advisor")
    add_serving_dir(parser)
    return parser.parse_args(argv)
