"""mondrian release: make a version of the adapter that dvc repro built."""

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.params import load_params
from mondrian.registry.git import git
from mondrian.registry.release import ReleaseResult, release


def main(argv: list[str]) -> None:
    parser = command_parser(
        "release",
        "mondrian release ansel --version v2",
        "Its hashes and verdict are recorded and tagged. Refused if a gate of evaluate.gates\n"
        "fails, unless --reason says why.",
    )
    parser.add_argument("advisor")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; new and higher")
    parser.add_argument("--reason", help="release although gates fail; kept in the record")
    add_params(parser)
    args = parser.parse_args(argv)
    result = release(args.advisor, args.version, args.reason, load_params(args.params))
    record, evaluation = result.release, result.release.evaluation
    print(f"released {record.tag}: {evaluation.verdict}, adapter {record.adapter_version}")
    for gate in evaluation.failed:
        print(f"  released although {gate}: {record.reason}")
    print("\n  ".join(["next:", *list_push_commands(result)]))


def list_push_commands(result: ReleaseResult) -> list[str]:
    """Return the commands that publish a release, those for missing remotes first."""
    remotes = git("remote").split()
    git_remote = "origin" if "origin" in remotes else (remotes or ["origin"])[0]
    commands = [] if remotes else ["git remote add origin URL        # there is none yet"]
    if not result.remote:
        commands += [
            "dvc remote add --default store URL   # none yet: s3://…, ssh://… or a folder",
            "git commit -m 'DVC remote' .dvc/config",
        ]
    push = f"git push {git_remote} HEAD {result.release.tag}"
    return [*commands, push, f"dvc push train@{result.release.advisor}"]
