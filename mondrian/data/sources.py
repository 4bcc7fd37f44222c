"""Sources of jobs: a database (sqlite_source) or a list (list_source), found by path."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from mondrian.core.errors import DataError, join_first
from mondrian.core.files import is_junk
from mondrian.data.lists.json_list import PCCD_FILE
from mondrian.data.lists.list_format import LIST_SUFFIXES, is_database
from mondrian.data.lists.list_source import ListJobSource
from mondrian.data.sqlite_source import SqliteJobSource, missing_source_message, open_database

CSV_TEMPLATE = Path(__file__).with_name("critiques_template.csv")  # a list with one example
_LIST_STEM = "critiques"  # of a list that is taken before other files of a folder
_PCCD_PHOTOS = Path("images", "full")
_LIST_INDEX = "dataset_info.json"  # in which LLaMA-Factory names its lists
_DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def locate_source(path: Path) -> Path:
    """Return the path itself, or the list in the folder.

    Raises DataError if the folder has no list, or more than one. critiques.* and guru.json come
    before lists of other names.
    """
    if not path.exists():
        raise DataError(missing_source_message(path))
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if _may_be_source(file))
    lists = [file for file in files if file.suffix.lower() in LIST_SUFFIXES]
    named = [file for file in lists if _is_list_name(file)]
    databases = [file for file in files if file.suffix.lower() in _DATABASE_SUFFIXES]
    other_lists = [file for file in lists if file.suffix.lower() != ".txt"]
    candidates = named or (other_lists and [*other_lists, *databases])
    if len(candidates) > 1:
        names = join_first([file.name for file in candidates], 5)
        raise DataError(f"{path} has several lists: {names}; give one of them, not the folder")
    if candidates:
        return candidates[0]
    paths = ", ".join(map(str, databases))
    hint = f"give the database itself: {paths}" if paths else "and without a database"
    raise DataError(f"{path} is a folder without {_LIST_STEM}.jsonl, {_LIST_STEM}.csv; {hint}")


def default_photo_folder(path: Path) -> Path:
    if not _is_list(path):
        return path.parent / "source"
    return path.parent / (_PCCD_PHOTOS if path.name.lower() == PCCD_FILE else "")


def open_source(path: Path) -> AbstractContextManager[SqliteJobSource | ListJobSource]:
    """Open a database or a list by its content; raises DataError if it is missing or invalid."""
    if not path.is_file():
        raise DataError(missing_source_message(path))
    return nullcontext(ListJobSource(path)) if _is_list(path) else open_database(path)


def _may_be_source(file: Path) -> bool:
    name = file.name
    return name[0] != "." and name != _LIST_INDEX and not is_junk(name) and file.is_file()


def _is_list(path: Path) -> bool:
    """Return whether a file is to be read as a list: by its content, if it exists."""
    if not path.is_file():
        return path.suffix.lower() in LIST_SUFFIXES
    is_named_database = path.suffix.lower() in _DATABASE_SUFFIXES and not path.stat().st_size
    return not is_database(path) and not is_named_database


def _is_list_name(path: Path) -> bool:
    return path.stem.lower() == _LIST_STEM or path.name.lower() == PCCD_FILE
