"""mondrian release ADVISOR --version v2: the adapter that dvc repro built becomes a version."""

from __future__ import annotations

import argparse
from pathlib import Path

from mondrian.core.params import load_params
from mondrian.registry.git import git
from mondrian.registry.release import ReleaseResult, release


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    result = release(args.advisor, args.version, args.because, load_params(args.params))
    evaluation = result.release.evaluation
    print(
        f"released {result.release.tag}: {evaluation.verdict}, adapter "
        f"{result.release.adapter_version}"
    )
    for line in evaluation.failed:
        print(f"  released although {line}: {result.release.because}")
    print("\n".join(["now:", *(f"  {line}" for line in list_push_commands(result))]))


def list_push_commands(result: ReleaseResult) -> list[str]:
    """Commands that bring a release to where others can pull it."""
    remotes = git("remote").split()
    git_remote = "origin" if "origin" in remotes else (remotes or ["origin"])[0]
    add = [] if remotes else ["git remote add origin URL        # there is none yet"]
    store = (
        []
        if result.remote
        else [
            "dvc remote add --default store URL   # none yet: s3://…, ssh://… or a folder",
            "git commit -m 'DVC remote' .dvc/config",
        ]
    )
    push = [
        f"git push {git_remote} HEAD {result.release.tag}",
        f"dvc push train@{result.release.advisor}",
    ]
    return [*add, *store, *push]


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mondrian release", description=__doc__)
    parser.add_argument("advisor")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; a new, higher one")
    parser.add_argument("--because", help="release it although gates fail, and say why")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args(argv)
