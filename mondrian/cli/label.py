"""mondrian label: write critiques of one's own photos on a local page, into a list."""

import argparse
from functools import partial
from pathlib import Path
from shlex import quote
from socket import socket

from filelock import FileLock, Timeout

from mondrian.cli.parser import (
    add_local_page,
    add_params,
    add_serving_dir,
    command_parser,
    path_name,
)
from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import DataError, join_first, one_line
from mondrian.core.files import remove_leftovers
from mondrian.core.params import DEMO_NOTE, Params, load_params
from mondrian.inference.photo_files import PhotoFile, PhotoListing, check_folder
from mondrian.labeling.critique_list import CritiqueList
from mondrian.labeling.draft_process import DraftProcess, DraftRequest
from mondrian.labeling.label_app import LabelPages
from mondrian.labeling.local_server import listen, run_local_app
from mondrian.labeling.progress_log import ProgressLog
from mondrian.labeling.session import DONE, LabelingSession, LabelPhoto, list_photos
from mondrian.registry.adapter_choice import find_adapter

_DRAFTS = Path(".cache/drafts")
_MAX_EXAMPLES = 10  # unreadable photos in the last lines


def main(argv: list[str]) -> None:
    args = parse_args(argv)
    params = load_params(args.params)
    check_folder(args.folder)
    critiques = CritiqueList(args.list or args.folder / "critiques.jsonl", args.advisor)
    listing, root = PhotoListing([args.folder], _DRAFTS), args.folder.resolve()
    if args.only:
        listing.photos = select_photos(listing, args.only)
    photos = list_photos(listing, root, critiques)
    if not photos:
        raise listing.explain_nothing()
    if args.advisor not in params.personas:
        known = ", ".join(params.advisors)
        print(f"{args.advisor} is a new advisor; {args.params} has {known}")
    if absent := [name for name in critiques.read() if not (root / name).is_file()]:
        print(f"critiques of photos that are not in {root}: {join_first(absent, 3)}")
    listener = listen(args.port)
    try:
        with FileLock(critiques.hidden_file("lock"), timeout=0):
            session = open_session(args, params, critiques, photos)
            skipped = [(file.name, file.describe()) for file in listing.skipped]
            title = find_title(params, args.advisor)
            pages = LabelPages(session, title, skipped, list_next_steps(critiques, root))
            serve(session, pages, listener, not args.no_browser)
    except Timeout:
        message = "another mondrian label writes into it; use its page, or end it first"
        raise DataError(f"{critiques.path}: {message}") from None


def open_session(
    args: argparse.Namespace, params: Params, critiques: CritiqueList, photos: list[LabelPhoto]
) -> LabelingSession:
    unfinished = critiques.hidden_file("unfinished")
    for path in (critiques.path, unfinished):
        remove_leftovers(path)
    progress = ProgressLog(unfinished, args.advisor)
    drafts = start_drafts(args, params, photos) if args.draft else None
    return LabelingSession(photos, critiques, progress, params.link, drafts)


def find_title(params: Params, advisor: str) -> str:
    """Return the name of an advisor; its id if params.yaml does not have it yet."""
    return params.profile(advisor).name if advisor in params.personas else advisor


def select_photos(listing: PhotoListing, only: Path) -> list[PhotoFile]:
    """Return the photos that a file names one a line, in its order; raises DataError."""
    try:
        lines = only.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--only: cannot read {only}: {one_line(error)}") from None
    photos = {photo.path.absolute(): photo for photo in listing.photos}
    names = [line.strip() for line in lines if line.strip()]
    if missing := [name for name in names if Path(name).absolute() not in photos]:
        raise DataError(f"{only}: no photo of the folder: {join_first(missing, 3)}")
    return [photos[Path(name).absolute()] for name in names]


def serve(
    session: LabelingSession, pages: LabelPages, listener: socket, opens_browser: bool
) -> None:
    """Serve the page until Ctrl-C, then say what is in the list and how to go on."""
    try:
        print(describe_counts(session))
        run_local_app(pages.build_app(), listener, partial(print, flush=True), opens_browser)
        print("\n".join([describe_counts(session), *describe_unreadable(session)]))
        if session.counts().get(DONE):
            print("next: " + "\n      ".join(pages.next_steps))
    finally:
        session.close()


def describe_counts(session: LabelingSession) -> str:
    counts = session.counts()
    others = ", ".join(f"{count} {state}" for state, count in counts.items() if state != DONE)
    done = f"{counts.get(DONE, 0)} of {len(session.photos)} photos are in {session.critiques.path}"
    return f"{done}; {others}" if others else done


def describe_unreadable(session: LabelingSession) -> list[str]:
    """Return the first unreadable photos with their reasons; the page shows all."""
    faults = session.images.faults
    unreadable = [photo for photo in session.photos.values() if photo.file.sha256 in faults]
    return [f"  {p.name}: {faults[p.file.sha256]}" for p in unreadable[:_MAX_EXAMPLES]]


def list_next_steps(critiques: CritiqueList, root: Path) -> list[str]:
    """Return the commands that use the list."""
    source = "" if root == critiques.path.parent else f" --source_dir {quote(str(root))}"
    return [
        f"mondrian init --list {quote(str(critiques.path))}{source}",
        "mondrian check && dvc repro prepare",
    ]


def start_drafts(
    args: argparse.Namespace, params: Params, photos: list[LabelPhoto]
) -> DraftProcess:
    params.persona(args.advisor)  # raises if there is none
    if params.base.is_demo:
        print(f"note: {DEMO_NOTE}")
    is_base = args.draft == "base"
    adapter = None if is_base else find_adapter(args.advisor, params, args.serving_dir)
    request = DraftRequest(
        params=args.params,
        advisor=args.advisor,
        adapter=adapter,
        folder=_DRAFTS,
        photos=[photo.file.path for photo in photos],
    )
    return DraftProcess(request)


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "label",
        "mondrian label ~/Pictures/2026 --advisor ansel\n"
        "mondrian label ~/Pictures/2026 --advisor ansel --draft base --list critiques.jsonl",
        "Unfinished text is kept; a finished critique is a line of the list. Ctrl-C ends it.",
    )
    add = parser.add_argument
    add("folder", type=path_name, metavar="FOLDER", help="photos; its sub-folders too")
    add("--advisor", type=advisor_id, required=True, help="whose critiques they are")
    list_help = "JSON lines, continued if it exists (default: FOLDER/critiques.jsonl)"
    only_help = "label only the photos in FILE, one path a line: mondrian suggest writes it"
    add("--only", type=path_name, metavar="FILE", help=only_help)
    add("--list", type=path_name, metavar="PATH", help=list_help)
    draft_help = "a model critiques the photos in the background, for you to correct"
    add("--draft", choices=("base", "adapter"), help=draft_help)
    add_local_page(parser, 5200)
    add_serving_dir(parser)
    add_params(parser)
    return parser.parse_args(argv)
