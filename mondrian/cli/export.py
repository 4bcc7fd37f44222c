"""mondrian export: write an adapter in another layout, or merged into its base."""

from mondrian.cli.parser import command_parser, path_name
from mondrian.core.errors import AdapterError
from mondrian.model.export import export_adapter, export_merged


def main(argv: list[str]) -> None:
    parser = command_parser(
        "export",
        "mondrian export models/mondrian-tiny-lora-ansel --format mlx --output_dir /tmp/adapter",
    )
    parser.add_argument("adapter", type=path_name, help="models/<base>-lora-<advisor>")
    parser.add_argument("--output_dir", type=path_name, required=True)
    parser.add_argument("--format", choices=("mlx", "peft"), default="peft")
    parser.add_argument("--merge", metavar="BASE", help="merge into a copy of this base instead")
    args = parser.parse_args(argv)
    if args.merge is not None and args.format != "peft":
        raise AdapterError("--merge and --format mlx exclude each other; give one")
    if args.merge is not None:
        export_merged(args.merge, args.adapter, args.output_dir)
    else:
        export_adapter(args.adapter, args.output_dir, args.format)
    print(f"wrote {args.output_dir}")
