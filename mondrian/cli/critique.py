"""mondrian critique: critiques of photos and folders, as a table, a page and XMP sidecars."""

import argparse
from pathlib import Path

from filelock import FileLock, Timeout

from mondrian.cli.parser import add_params, add_serving_dir, command_parser, path_name
from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.files import write_text
from mondrian.core.params import DEMO_NOTE, Params, load_params
from mondrian.inference.critic import Critic
from mondrian.inference.critique_log import CritiqueLog
from mondrian.inference.gallery import Gallery
from mondrian.inference.photo_critiques import PhotoCritiques, describe_skipped
from mondrian.inference.photo_files import PhotoListing
from mondrian.inference.photo_reader import PreviewFolder
from mondrian.inference.sidecars import write_sidecars
from mondrian.inference.table import write_table
from mondrian.registry.adapter_calibration import build_calibration_finder, find_calibration
from mondrian.registry.adapter_choice import find_adapter, find_version


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    params.persona(args.advisor)  # raises if there is none
    adapter = choose_adapter(args, params)
    folder = args.output or Path("critiques", args.advisor)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--output is {folder}, which is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            critique(args, params, adapter, folder)
    except Timeout:
        raise DataError(f"another run writes into {folder}; wait for it") from None


def critique(args: argparse.Namespace, params: Params, adapter: Path | None, folder: Path) -> None:
    """Critique the photos and write all outputs."""
    log, previews = CritiqueLog(folder / "critiques.jsonl"), PreviewFolder(folder / "previews")
    listing = PhotoListing(args.photos, folder)
    if not listing.photos:
        raise listing.explain_nothing()
    find_file = build_calibration_finder(params)
    calibration = find_calibration(adapter, find_file) if adapter else None
    critic = Critic(params, args.advisor, adapter, args.compare, calibration)
    critiques = PhotoCritiques(critic, args.advisor, listing)
    critiques.run(log, previews, params.image)
    write_table(folder / "critiques.csv", critiques.photos, listing.skipped)
    source, gallery = critic.describe(), folder / "gallery.html"
    if params.base.is_demo:
        source += f". {DEMO_NOTE}"
    page = Gallery(params.profile(args.advisor).name, source, previews, folder)
    write_text(gallery, page.render(critiques.photos, listing.skipped))
    lines = describe_skipped(listing.skipped)
    if args.sidecar:
        lines += write_sidecars(critiques.photos).to_lines()
    if log.other_lines:
        lines.append(
            f"{log.path}: {len(log.other_lines)} lines are no critiques of this command; kept"
        )
    if lines:
        print("\n".join(lines))
    print(source)
    print(
        f"{len(critiques.photos)} photos critiqued, {critiques.num_new} new critiques, "
        f"{len(listing.skipped)} files skipped: {gallery}"
    )


def choose_adapter(args: argparse.Namespace, params: Params) -> Path | None:
    """Return the folder of the adapter, None for the base alone."""
    if args.base:
        if args.compare:
            raise ParamsError("--compare shows the base next to an adapter; leave out --base")
        return None
    if args.version:
        return find_version(args.advisor, args.version, args.serving_dir)
    return args.adapter or find_adapter(args.advisor, params, args.serving_dir)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "critique",
        "mondrian critique ~/Pictures/2026 --advisor ansel --compare\n"
        "mondrian critique IMG_1.jpg IMG_2.jpg --advisor ansel --version v2 --sidecar",
        "By default the adapter of the last dvc repro answers, or else the active version of this\n"
        "machine. A killed run continues, and no photo is critiqued twice by the same model.",
    )
    add = parser.add_argument
    add("photos", type=path_name, nargs="+", metavar="PHOTO", help="photos, or folders of photos")
    add("--advisor", type=advisor_id, required=True, help="one of params.yaml")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--adapter", type=path_name, help="an adapter folder")
    model.add_argument("--version", help="a version on this machine, such as v2")
    model.add_argument("--base", action="store_true", help="no adapter")
    add("--compare", action="store_true", help="show the base's critiques too")
    add("--output", type=path_name, help="folder of the results (default: critiques/<advisor>)")
    add("--sidecar", action="store_true", help="write scores and stars into XMP sidecars")
    add_serving_dir(parser)
    add_params(parser)
    return parser.parse_args(argv)
