"""mondrian rollback ADVISOR: put the version that served before to use again."""

from __future__ import annotations

import argparse
from pathlib import Path

from mondrian.registry.local_store import Shelf
from mondrian.registry.rollback import roll_back


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    done = roll_back(Shelf(args.serving_dir / args.advisor, args.advisor))
    print(f"{args.advisor}@{done.version} serves again, instead of {done.replaced_version}")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian rollback", description=__doc__)
    parser.add_argument("advisor")
    parser.add_argument("--serving_dir", type=Path, default=Path("models/serving"))
    return parser.parse_args(argv)
