"""mondrian pull: download a version, verify it and activate it on this machine."""

import argparse
from time import perf_counter

from mondrian.cli.parser import add_db, add_params, add_serving_dir, command_parser, path_name
from mondrian.registry.smoke_test import start_smoke_test


def main(argv: list[str]) -> None:
    started = perf_counter()
    args = parse_args(argv)
    with start_smoke_test(args.params, args.advisor) as smoke_test:  # loads the base meanwhile
        from mondrian.core.params import load_params
        from mondrian.registry.download import VersionSource
        from mondrian.registry.local_store import LocalStore
        from mondrian.registry.pull import VersionSelector, pull
        from mondrian.registry.signature import read_signers

        source = VersionSource(args.repository, args.remote, args.remote_url)
        store = LocalStore(args.serving_dir / args.advisor, args.advisor)
        params = load_params(args.params)
        signers = str(args.verify or params.machine.signers)
        selector = VersionSelector(args.rev, args.stage, read_signers(signers) if signers else None)
        result = pull(store, selector, source, params, smoke_test.check_adapter)
    size = result.downloaded_bytes / 1e6
    transfer = f"{size:.1f} MB" if size else "already here, verified again"
    previous = f", before it {result.previous_version}" if result.previous_version else ""
    release = result.release
    print(
        f"{release.tag} is active (adapter {release.adapter_version}): {transfer}{previous}, "
        f"{perf_counter() - started:.1f} s"
    )
    if result.signer:
        print(f"signed by {result.signer}")
    if rollout := _describe_rollout(args.db, release.tag):
        print(rollout)


def _describe_rollout(db: str, tag: str) -> str:
    """Pass the activation on to the database; return what the version's rollout lets it answer."""
    from mondrian.core.errors import DataError
    from mondrian.rollout.activation import activate_by_name, describe_activated
    from mondrian.rollout.lookup import NoRolloutsError, current_user
    from mondrian.rollout.store import Actor

    try:
        active, _ = activate_by_name(db, tag, "", Actor(current_user(), "mondrian pull"))
    except NoRolloutsError:
        return ""
    except DataError as error:
        return f"its rollout is unknown: {error}"
    return describe_activated(active) if active else ""


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "pull",
        "mondrian pull ansel --rev v2 --from git@host:critiques.git\n"
        "mondrian pull ansel --stage prod --from ~/mondrian --remote_url ~/dvc-store",
        "Its hashes are checked, and it must critique a test photo. A running service loads it\n"
        "within seconds.",
    )
    add = parser.add_argument
    add("advisor", help="advisor of the version, such as ansel")
    version = parser.add_mutually_exclusive_group(required=True)
    version.add_argument("--rev", help="a version: v2, 2.1 or v2.1.3")
    version.add_argument("--stage", help="or the version that has this stage, such as prod")
    repository_help = "URL or path of the git repository with the versions"
    add("--from", dest="repository", metavar="REPO", required=True, help=repository_help)
    add("--remote", metavar="NAME", help="DVC remote, if not the repository's default")
    add("--remote_url", metavar="URL", help="its URL, if it differs from the repository's")
    add(
        "--verify",
        type=path_name,
        metavar="KEY",
        help="a public key, or allowed_signers: refuse other versions",
    )
    add_serving_dir(parser)
    add_db(parser)
    add_params(parser)
    return parser.parse_args(argv)
