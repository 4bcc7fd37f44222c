"""mondrian list: versions, their verdicts and stages, and what serves here."""

from __future__ import annotations

import argparse
import json

from mondrian.cli.parser import add_params, add_serving_dir, command_parser
from mondrian.core.errors import ReleaseError
from mondrian.core.params import load_params
from mondrian.registry.listing import (
    VersionRow,
    format_version_table,
    list_unfinished_releases,
    list_versions,
)


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    known = load_params(args.params).advisors
    advisors = [args.advisor] if args.advisor else known
    versions = {advisor: list_versions(advisor, args.serving_dir) for advisor in advisors}
    if not versions[advisors[0]] and advisors[0] not in known:
        raise ReleaseError(
            f"no advisor {advisors[0]!r} and no version of it; params.yaml has {', '.join(known)}"
        )
    if args.json:
        print(json.dumps([row.to_dict() for rows in versions.values() for row in rows], indent=2))
    else:
        print("\n".join(line for item in versions.items() for line in _format_advisor(*item)))


def _format_advisor(advisor: str, rows: list[VersionRow]) -> list[str]:
    lines = (
        format_version_table(rows)
        if rows
        else ["no versions; mondrian release makes one, mondrian pull installs one"]
    )
    for version in list_unfinished_releases(advisor, rows):
        lines.append(
            f"the release of {version} was interrupted and has no tag: "
            f"mondrian release {advisor} --version {version}"
        )
    return [advisor, *(f"  {line}" for line in lines)]


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "list",
        "List versions with verdict and stages, and which one serves on this machine.",
        "mondrian list ansel",
    )
    parser.add_argument("advisor", nargs="?", help="all of params.yaml if not given")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    add_serving_dir(parser)
    add_params(parser)
    return parser.parse_args(argv)
