"""mondrian releases [ADVISOR]: versions, their verdicts and stages, and what serves here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mondrian.core.errors import ReleaseError
from mondrian.core.params import load_params
from mondrian.registry.listing import format_version_table, list_unfinished_releases, list_versions


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    known = load_params(args.params).advisors
    advisors = [args.advisor] if args.advisor else known
    rows_by_advisor = {advisor: list_versions(advisor, args.serving_dir) for advisor in advisors}
    if not rows_by_advisor[advisors[0]] and advisors[0] not in known:
        raise ReleaseError(
            f"no advisor {advisors[0]!r} and no version of it; params.yaml has {', '.join(known)}"
        )
    if args.json:
        print(
            json.dumps(
                [
                    row.to_dict()
                    for advisor_rows in rows_by_advisor.values()
                    for row in advisor_rows
                ],
                indent=2,
            )
        )
        return
    for advisor, version_rows in rows_by_advisor.items():
        lines = (
            format_version_table(version_rows)
            if version_rows
            else ["no versions; mondrian release makes one, mondrian pull brings one here"]
        )
        lines += [
            f"{version} was begun and has no tag: mondrian release {advisor} --version "
            f"{version} once more"
            for version in list_unfinished_releases(advisor, version_rows)
        ]
        print("\n".join([advisor, *(f"  {line}" for line in lines)]))


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian releases", description=__doc__)
    parser.add_argument("advisor", nargs="?", help="all of params.yaml where it is left out")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--serving_dir", type=Path, default=Path("models/serving"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args(argv)
