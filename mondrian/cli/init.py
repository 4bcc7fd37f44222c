"""mondrian init: write the values of a base, and of one's own data, into params.yaml."""

import os
import stat
import sys
from argparse import Namespace
from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mondrian.cli.parser import add_params, command_parser, path_name
from mondrian.core.advisor_id import check_advisor_id
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.files import write_bytes, write_text
from mondrian.core.params import Params
from mondrian.core.params_file import replace_values
from mondrian.core.params_section import parse_yaml, read_text
from mondrian.data.application import Application, check_dependencies, find_application
from mondrian.data.sources import CSV_TEMPLATE

PRESETS_FILE = Path(__file__).with_name("presets.yaml")


def main(argv: list[str]) -> None:
    presets = YAML().load(PRESETS_FILE)  # keeps numbers as they are written there
    args = _parse_args(argv, presets)
    if args.csv_template:
        _write_csv_template(args.csv_template)
        return
    values = dict(presets[args.base]) if args.base else {}
    personas: dict[str, str] = {}
    if args.source:
        application = find_application(args.source.expanduser(), args.source_dir, args.advisor)
        _check_advisor_ids(application)
        print(application.describe_jobs())
        check_dependencies(application.folders, args.params.parent)
        values |= _application_values(application, args.params.parent)
        personas = dict.fromkeys(application.finished_jobs, "")
    text = read_text(args.params)
    edited = replace_values(text, values, {"personas": personas}, str(args.params))
    if edited == text:
        print(f"{args.params} already has these values")
    else:
        print(_format_diff(text, edited, str(args.params)))
        _confirm(args)
        _write_edited(args.params, text, edited)
        print(f"{args.params} is written")
    print(_next_step(edited, args.params, list(personas)))


def _parse_args(argv: list[str], bases: Iterable[str]) -> Namespace:
    parser = command_parser(
        "init",
        "mondrian init --base qwen3-vl-4b-4bit --db /photos/mondrian/mondrian.db\n"
        "mondrian init --csv_template data/mine/critiques.csv",
        "The change is shown first; all other values and their comments stay.",
    )
    parser.add_argument("--base", choices=list(bases), help="model to fine-tune")
    sources = parser.add_mutually_exclusive_group()
    add = sources.add_argument
    db_help = "your database; advisors and folders are found in it and next to it"
    add("--db", dest="source", type=path_name, metavar="PATH", help=db_help)
    list_help = "your list (CSV, JSON lines, chat rows), or its folder"
    add("--list", dest="source", type=path_name, metavar="PATH", help=list_help)
    template_help = "write a list with one example, to be filled in, and exit"
    add("--csv_template", type=path_name, metavar="PATH", help=template_help)
    photos_help = "photos, if they are not next to the database or list"
    parser.add_argument("--source_dir", type=path_name, help=photos_help)
    advisor_help = "advisors to use; default: all that the database or list names"
    parser.add_argument("--advisor", nargs="+", default=[], help=advisor_help)
    parser.add_argument("--yes", action="store_true", help="write without asking")
    add_params(parser)
    args = parser.parse_args(argv)
    if not (args.base or args.source or args.csv_template):
        parser.error("give --base, --db, --list or --csv_template")
    if args.csv_template and (args.base or args.source_dir or args.advisor):
        parser.error("--csv_template writes a list only; give it alone")
    if not args.source and (args.source_dir or args.advisor):
        parser.error("--source_dir and --advisor need --db or --list")
    return args


def _write_csv_template(path: Path) -> None:
    if path.exists():
        raise DataError(f"{path} exists; give another path")
    write_text(path, CSV_TEMPLATE.read_text(encoding="utf-8"))
    print(
        f"{path}: replace the example by a row per critique and put the photos next to it; then "
        f"mondrian init --list {path.parent}"
    )


def _check_advisor_ids(application: Application) -> None:
    """Raise DataError if params.yaml cannot name an advisor."""
    for advisor, count in application.finished_jobs.items():
        try:
            check_advisor_id(advisor)
        except ValueError as error:
            raise DataError(
                f"{application.source}: {advisor!r:.80} (finished jobs: {count}) cannot be used: "
                f"{error}; name those to use with --advisor, or rename it in the application"
            ) from None


def _application_values(application: Application, project: Path) -> dict[str, Any]:
    folders = application.folders
    return {
        "advisors": list(application.finished_jobs),
        "application": {
            "db_path": _path_for_dvc(application.source, project),
            "source_dir": _path_for_dvc(folders.source, project),
            "analysis_dir": _path_for_dvc(folders.analysis, project),
            "html_dir": _path_for_dvc(folders.html, project),
        },
    }


def _path_for_dvc(path: Path, project: Path) -> str:
    """Return a path relative to the project if it is inside, and an absolute one otherwise."""
    absolute, root = Path(os.path.abspath(path)), Path(os.path.abspath(project))
    return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)


def _format_diff(old: str, new: str, name: str) -> str:
    lines = unified_diff(old.splitlines(), new.splitlines(), name, f"{name} (new)", "", "", 1, "")
    return "\n".join(lines)


def _write_edited(path: Path, old: str, new: str) -> None:
    """Write params.yaml; its mode, its line ends and a symlink to it stay."""
    if read_text(path) != old:
        raise ParamsError(f"{path} changed meanwhile; run mondrian init again")
    file = path.resolve()
    if not os.access(file, os.W_OK):
        raise ParamsError(f"{file} is not writable; change it with chmod u+w")
    mode = stat.S_IMODE(file.stat().st_mode)
    line_end = "\r\n" if b"\r\n" in file.read_bytes() else "\n"
    write_bytes(file, new.replace("\n", line_end).encode())
    file.chmod(mode)


def _confirm(args: Namespace) -> None:
    """Ask before params.yaml is written; raises ParamsError if the answer is not yes."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise ParamsError(f"{args.params} is unchanged; --yes writes it without asking")
    try:
        answer = input(f"Write {args.params}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise ParamsError(f"{args.params} is unchanged")


def _next_step(text: str, path: Path, advisors: list[str]) -> str:
    try:
        parse_yaml(text, path, Params)
    except ParamsError as error:
        return f"next: correct {error}"
    if advisors:
        personas = ", ".join(f"personas.{advisor}" for advisor in advisors)
        return f"next: check {personas} in {path}, then dvc repro prepare"
    return "next: dvc repro prepare"  # --plan and train read the rows in the base's image size
