"""mondrian promote ADVISOR --version v2 --stage prod: a version gets a stage."""

from __future__ import annotations

import argparse

from mondrian.registry.promote import promote
from mondrian.registry.version import parse_version


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    tag = promote(args.advisor, args.version, args.stage)
    what = f"{args.advisor} {parse_version(args.version)} is {args.stage}"
    print(f"{what}; now:\n  git push origin '{tag}'" if tag else f"{what} already")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian promote", description=__doc__)
    parser.add_argument("advisor")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; one that exists")
    parser.add_argument("--stage", required=True, help="prod, or any other name")
    return parser.parse_args(argv)
