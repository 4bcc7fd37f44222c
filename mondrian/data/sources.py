"""Where critiques come from, told by kind: a jobs database, a JSONL or CSV list, or the PCCD."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from mondrian.core.errors import DataError
from mondrian.data.jobs import JobSource
from mondrian.data.list_source import open_list
from mondrian.data.sqlite_source import open_database

LIST_PHOTO_DIRS = {"critiques.jsonl": ".", "critiques.csv": ".", "guru.json": "images/full"}
_LIST_SUFFIXES = (".jsonl", ".csv", ".json")


def locate_source(path: Path) -> Path:
    """The file that holds the critiques: the path itself, or the list in the folder it names.

    Raises DataError where there is no such path, or the folder has none.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; set application.db_path in params.yaml")
    if not path.is_dir():
        return path
    list_paths = [path / name for name in LIST_PHOTO_DIRS if (path / name).is_file()]
    if list_paths:
        return list_paths[0]
    database = next(iter(sorted(path.glob("*.db"))), path / "mondrian.db")
    raise DataError(
        f"{path} is a folder without {', '.join(LIST_PHOTO_DIRS)}; give the database file, such "
        f"as {database}"
    )


def default_photo_dir(path: Path) -> Path:
    """The folder where the photographs of a source lie unless another is given."""
    if path.suffix not in _LIST_SUFFIXES:
        return path.parent / "source"
    return path.parent / LIST_PHOTO_DIRS.get(path.name, ".")


def open_source(path: Path) -> AbstractContextManager[JobSource]:
    """Open what `locate_source` found.

    Raises DataError where it cannot be read as what it is.
    """
    return open_list(path) if path.suffix in _LIST_SUFFIXES else open_database(path)
