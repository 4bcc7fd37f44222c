"""mondrian list: versions with verdict, stages and rollout, and the active one of this machine."""

import json
import sys
from dataclasses import replace

from mondrian.cli.parser import add_db, add_params, add_serving_dir, command_parser
from mondrian.core.errors import DataError, ReleaseError
from mondrian.core.params import load_params
from mondrian.registry import listing
from mondrian.rollout.formatting import format_state
from mondrian.rollout.lookup import NoRolloutsError, open_rollout_store
from mondrian.rollout.store import ROLLED_BACK


def main(argv: list[str]) -> None:
    parser = command_parser("list", "mondrian list ansel")
    parser.add_argument("advisor", nargs="?", help="all of params.yaml if not given")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    add_serving_dir(parser)
    add_db(parser)
    add_params(parser)
    args = parser.parse_args(argv)
    known = load_params(args.params).advisors
    advisors = [args.advisor] if args.advisor else known
    versions = {advisor: listing.list_versions(advisor, args.serving_dir) for advisor in advisors}
    if not versions[advisors[0]] and advisors[0] not in known:
        raise ReleaseError(
            f"no advisor {advisors[0]!r} and no version of it; params.yaml has {', '.join(known)}"
        )
    states = _read_rollout_states(args.db)
    for advisor, rows in versions.items():
        versions[advisor] = [replace(row, rollout=states.get(row.tag, "")) for row in rows]
    if args.json:
        print(json.dumps([row.to_dict() for rows in versions.values() for row in rows], indent=2))
    else:
        print("\n".join(_format_advisor(*item) for item in versions.items()))


def _read_rollout_states(db: str) -> dict[str, str]:
    """Return by the name of a version what its rollout lets it answer, as far as it is known."""
    try:
        with open_rollout_store(db) as store:
            active, others = store.split_newest()
    except NoRolloutsError:
        return {}
    except DataError as error:
        print(f"rollouts are unknown: {error}", file=sys.stderr)
        return {}
    states = {record.name: record.state for record in others if record.state == ROLLED_BACK}
    for record in active:
        if record.state == ROLLED_BACK or not record.full_since:
            states[record.control] = "control"
        states[record.name] = format_state(record)
    return states


def _format_advisor(advisor: str, rows: list[listing.VersionRow]) -> str:
    lines = listing.format_version_table(rows)
    if not rows:
        lines = ["no versions; mondrian release makes one, mondrian pull installs one"]
    lines += [
        f"the release of {version} was interrupted and has no tag: "
        f"mondrian release {advisor} --version {version}"
        for version in listing.list_unfinished_releases(advisor, rows)
    ]
    return "\n  ".join([advisor, *lines])
