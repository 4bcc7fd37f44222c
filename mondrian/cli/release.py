"""mondrian release: make a version of the adapter that dvc repro built."""

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.params import load_params
from mondrian.registry.final_test import describe_final_test
from mondrian.registry.git import git
from mondrian.registry.release import ReleaseResult, release


def main(argv: list[str]) -> None:
    parser = command_parser(
        "release",
        "mondrian release ansel --version v2",
        "The adapter is evaluated on the test split, once; hashes, verdicts and a model card are\n"
        "recorded and tagged. Refused if a gate of evaluate.gates fails or test is WORSE, unless\n"
        "--reason says why.",
    )
    parser.add_argument("advisor", help="one of params.yaml")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; new and higher")
    parser.add_argument("--reason", help="release although gates fail; kept in the record")
    key_help = "SSH key that signs the version; mondrian pull --verify asks for it"
    parser.add_argument("--sign", type=path_name, metavar="KEY", help=key_help)
    add_params(parser)
    args = parser.parse_args(argv)
    params = load_params(args.params)
    result = release(args.advisor, args.version, args.reason, params, args.sign)
    record, evaluation = result.release, result.release.evaluation
    signed = f", signed with {args.sign}" if args.sign else ""
    print(f"released {record.tag}: {evaluation.verdict}, adapter {record.adapter_version}{signed}")
    print(f"  {describe_final_test(record.test)}")
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
