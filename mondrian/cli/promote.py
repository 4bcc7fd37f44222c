"""mondrian promote: assign a stage to a version."""

from mondrian.cli.parser import command_parser
from mondrian.registry.tags import promote
from mondrian.registry.version import parse_version


def main(argv: list[str]) -> None:
    parser = command_parser(
        "promote",
        "mondrian promote ansel --version v2 --stage prod",
        "`mondrian pull --stage` installs the version that has the stage.",
    )
    parser.add_argument("advisor", help="advisor of the version, such as ansel")
    parser.add_argument("--version", required=True, help="v2, 2.1 or v2.1.3; must exist")
    parser.add_argument("--stage", required=True, help="prod, or any other name")
    args = parser.parse_args(argv)
    tag = promote(args.advisor, args.version, args.stage)
    text = f"{args.advisor} {parse_version(args.version)} is {args.stage}"
    print(f"{text}; next:\n  git push origin '{tag}'" if tag else f"{text} already")
