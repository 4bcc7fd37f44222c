"""mondrian suggest: which photos to critique next, so that the critiques cover most."""

import argparse
import json
from pathlib import Path
from shlex import quote

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.advisor_id import advisor_id
from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.files import check_output_file, suggest_path, write_text
from mondrian.core.params import Params, load_params
from mondrian.data.manifest import Manifest
from mondrian.inference.photo_critiques import describe_skipped
from mondrian.inference.photo_files import PhotoListing, check_folder
from mondrian.inference.photo_vectors import PhotoVectors
from mondrian.inference.suggestion import PhotoGroups, PhotoSuggestions, group_photos
from mondrian.labeling.critique_list import CritiqueList
from mondrian.model import vlm
from mondrian.model.memory_limits import set_memory_limits

_CACHE, _SAMPLE = Path(".cache"), Path("data/sample")


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    check_folder(args.folder)
    if args.output:
        check_output_file(args.output)
    listing = PhotoListing([args.folder], _CACHE / "suggest")
    if not listing.photos:
        raise listing.explain_nothing()
    critiqued = find_critiqued(args, params)
    present = [path for path in critiqued if path.is_file()]
    groups = group_photos(listing, present, params.image, _CACHE)
    if not groups.candidates:
        raise explain_nothing(groups, listing)
    set_memory_limits(params.machine.cache_limit_gb)
    base = vlm.load(params.base.source)
    vectors = PhotoVectors(base, params.image, _CACHE / "suggest" / "vectors")
    suggestions = PhotoSuggestions(groups, vectors, listing)
    suggestions.choose(args.count)
    if not suggestions.photos:
        raise explain_nothing(groups, listing)
    if args.output:
        names = [photo.file.path.absolute().as_posix() for photo in suggestions.photos]
        write_text(args.output, "".join(f"{name}\n" for name in names))
    if args.json:
        print(json.dumps(suggestions.to_json(listing), indent=2, ensure_ascii=False))
    else:
        print_suggestions(args, suggestions, listing)
        if len(present) < len(critiqued):
            print(f"{len(critiqued) - len(present)} critiqued photos were not found")


def explain_nothing(groups: PhotoGroups, listing: PhotoListing) -> DataError:
    num_known, skipped = len(groups.known), describe_skipped(listing.skipped, "")
    reasons = f"; {skipped[0]}" if skipped else ""
    return DataError(f"no photo is left to critique: {num_known} are critiqued{reasons}")


def find_critiqued(args: argparse.Namespace, params: Params) -> list[Path]:
    """Return the photos of the advisor's critiques: those that link found, and those of a list."""
    paths: list[Path] = []
    manifest = find_manifest(args.advisor, params)
    if manifest and manifest.is_file():
        paths += [Path(record.photo.path) for record in Manifest(manifest).records()]
    if not args.folder.resolve().is_relative_to(_SAMPLE.resolve()):  # rendered photos, not yours
        paths = [path for path in paths if not path.resolve().is_relative_to(_SAMPLE.resolve())]
    list_path = args.list or args.folder / "critiques.jsonl"
    if args.list and not list_path.is_file():
        raise DataError(f"--list is {list_path}, which does not exist{suggest_path(list_path)}")
    if list_path.is_file():
        critiques = CritiqueList(list_path, args.advisor)
        paths += [args.folder.resolve() / name for name in critiques.read()]
    return list(dict.fromkeys(paths))


def find_manifest(advisor: str, params: Params) -> Path | None:
    """Return the manifest of link; None for an advisor that is only in a list."""
    if advisor not in params.advisors:
        return None
    try:
        return read_stage_flags("prepare", ["manifest"], params)[params.advisors.index(advisor)][0]
    except ParamsError:  # not in a project's folder
        return None


def print_suggestions(
    args: argparse.Namespace, suggestions: PhotoSuggestions, listing: PhotoListing
) -> None:
    groups, num_photos = suggestions.groups, len(suggestions.photos)
    print(suggestions.describe(args.folder))
    print(
        f"{num_photos} suggested, {len(suggestions.others())} other photos, {len(groups.copies)} "
        f"near-duplicates of these, {len(groups.known)} critiqued"
    )
    print(f"compared with {suggestions.num_critiqued} critiqued photos")
    if lines := describe_skipped(listing.skipped, "with --json"):
        print("\n".join(lines))
    if args.output:
        folder, output = quote(str(args.folder)), quote(str(args.output))
        print(f"next: mondrian label {folder} --advisor {args.advisor} --only {output}")


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "suggest",
        "mondrian suggest ~/Pictures/2026 --advisor ansel --count 20 --output next.txt\n"
        "mondrian label ~/Pictures/2026 --advisor ansel --only next.txt",
        "Each photo is the one that differs most from all that are critiqued or suggested before\n"
        "it, by the features of the base's vision tower. Near-duplicates are suggested once.",
    )
    add = parser.add_argument
    add("folder", type=path_name, metavar="FOLDER", help="photos; its sub-folders too")
    add("--advisor", type=advisor_id, required=True, help="whose critiques they will be")
    add("--count", type=positive_int, default=20, help="photos to suggest")
    list_help = "critiques written since the last dvc repro (default: FOLDER/critiques.jsonl)"
    add("--list", type=path_name, metavar="PATH", help=list_help)
    add("--output", type=path_name, metavar="FILE", help="write the paths, one a line")
    add("--json", action="store_true", help="print every file as JSON")
    add_params(parser)
    return parser.parse_args(argv)


def positive_int(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count}; it must be at least 1")
    return count
