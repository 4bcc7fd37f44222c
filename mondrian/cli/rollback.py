"""mondrian rollback: activate the previous version."""

from mondrian.cli.parser import add_serving_dir, command_parser
from mondrian.registry.local_store import LocalStore
from mondrian.registry.pull import activate_previous


def main(argv: list[str]) -> None:
    parser = command_parser("rollback", "mondrian rollback ansel")
    parser.add_argument("advisor")
    add_serving_dir(parser)
    args = parser.parse_args(argv)
    result = activate_previous(LocalStore(args.serving_dir / args.advisor, args.advisor))
    print(f"{args.advisor}@{result.version} is active again, instead of {result.replaced_version}")
