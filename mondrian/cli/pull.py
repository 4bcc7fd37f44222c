"""mondrian pull ADVISOR --rev v2: fetch a version to this machine, check it and put it to use."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

from mondrian.registry.smoke_test import start_smoke_test


def main(argv: list[str]) -> None:
    started = perf_counter()
    args = parse_args(argv)
    with start_smoke_test(
        args.params, args.advisor
    ) as canary:  # loads the base while all else goes on
        from mondrian.core.params import load_params
        from mondrian.registry.download import Source
        from mondrian.registry.local_store import Shelf
        from mondrian.registry.pull import VersionSelector, pull

        source = Source(args.repository, args.remote, args.remote_url)
        shelf, requested_version = (
            Shelf(args.serving_dir / args.advisor, args.advisor),
            VersionSelector(args.rev, args.stage),
        )
        done = pull(shelf, requested_version, source, load_params(args.params), canary)
    release = done.release
    came = (
        f"{done.downloaded_bytes / 1e6:.1f} MB"
        if done.downloaded_bytes
        else "here already, verified again"
    )
    before = f", before it {done.previous_version}" if done.previous_version else ""
    print(
        f"{release.tag} serves (adapter {release.adapter_version}): {came}{before}, "
        f"{perf_counter() - started:.1f} s"
    )


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian pull", description=__doc__)
    parser.add_argument("advisor")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--rev", help="a version: v2, 2.1 or v2.1.3")
    which.add_argument("--stage", help="or the version that has this stage, such as prod")
    parser.add_argument(
        "--from",
        dest="repository",
        metavar="REPO",
        required=True,
        help="URL or path of the git repository with the versions",
    )
    parser.add_argument("--remote", metavar="NAME", help="DVC remote; else the repository's own")
    parser.add_argument("--remote_url", metavar="URL", help="its address, where that is another")
    parser.add_argument("--serving_dir", type=Path, default=Path("models/serving"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args(argv)
