"""List the photo folder once: its photos, thumbnails, sub-folders and links, by relative path.

Links to folders are not followed, and what systems and programs add is skipped.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mondrian.core.errors import PhotoError
from mondrian.core.files import is_junk
from mondrian.critique.rejection import RejectionReason
from mondrian.data.photos.stored_path import UPLOAD_PREFIX, normalize_path

_MAX_DEPTH = 32  # sub-folders in each other; what is deeper is not listed
_MAX_CANDIDATES = 20  # files of one name; two are ambiguous already
_THUMB_FOLDERS = ("thumbnails", "thumbs", "thumb")
_THUMB_NAME = re.compile(r"^thumb(?:nail)?_|[-_]thumb(?:nail)?(?=\.\w+$)", re.IGNORECASE)


class PathTable:
    """Files by their path, in any spelling, and by their name."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}  # path as looked up -> path of the file; both relative
        self._spellings: dict[str, str | tuple[str, str]] = {}  # two, if they cannot be told apart
        self._by_name: dict[str, list[str]] = {}

    def add(self, path: str, file: str) -> None:
        """Add a file; of two with the same path the first stays."""
        if path in self.files:
            return
        self.files[path] = file
        normalized = normalize_path(path)
        first = self._spellings.setdefault(normalized, path)
        if isinstance(first, str) and first is not path:
            self._spellings[normalized] = (first, path)
        same_name = self._by_name.setdefault(normalized.rsplit("/", 1)[-1], [])
        if len(same_name) < _MAX_CANDIDATES:
            same_name.append(path)

    def find_path(self, path: str) -> str | None:
        """Return the path as it is spelled here; PhotoError if several differ in spelling only."""
        if path in self.files:
            return path
        spelling = self._spellings.get(normalize_path(path))
        if isinstance(spelling, tuple):
            detail = f"{spelling[0]!r} and {spelling[1]!r} differ from {path!r} in spelling only"
            raise PhotoError(RejectionReason.IMAGE_AMBIGUOUS, detail)
        return spelling

    def find_name(self, name: str) -> list[str]:
        """Return paths of files of that name, in any folder and any spelling."""
        return self._by_name.get(normalize_path(name), [])


class PhotoListing:
    """The content of a photo folder; all paths are relative to it, with slashes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.photos, self.thumbnails = PathTable(), PathTable()
        self._folders: set[str] = set()  # normalized paths, links included
        self._folder_names: set[str] = set()  # normalized
        self.linked_files: set[str] = set()
        self.linked_folders: set[str] = set()
        self.uploads: dict[str, list[str]] = {}  # by normalized name without the upload prefix
        for parent, entries in _walk(folder):
            self._add_entries(parent, entries)

    def has_folder(self, folders: Sequence[str]) -> bool:
        """Return whether a path of folders exists, in any spelling."""
        return normalize_path("/".join(folders)) in self._folders

    def has_folder_name(self, names: Sequence[str]) -> bool:
        """Return whether a folder at any depth has one of the names, in any spelling."""
        return any(normalize_path(name) in self._folder_names for name in names)

    def leads_through_link(self, path: str) -> bool:
        """Return whether a path names a file in a linked folder."""
        folders = path.split("/")[:-1] if self.linked_folders and "\0" not in path else []
        parents = ("/".join(folders[: i + 1]) for i in range(len(folders)))
        is_in_link = any(parent in self.linked_folders for parent in parents)
        return is_in_link and _call_or_false((self._folder / path).is_file)

    def _add_entries(self, parent: str, entries: list[os.DirEntry[str]]) -> None:
        folders = parent.split("/") if parent else []
        outer = [folder for folder in folders if folder.lower() not in _THUMB_FOLDERS]
        for entry in entries:
            path = f"{parent}/{entry.name}" if parent else entry.name
            if _call_or_false(entry.is_dir):
                self._add_folder(path, entry)
            elif _call_or_false(entry.is_file):
                if entry.is_symlink():
                    self.linked_files.add(path)
                original = _THUMB_NAME.sub("", entry.name)
                if original != entry.name or len(outer) < len(folders):
                    self.thumbnails.add(path, path)
                    self.thumbnails.add("/".join([*outer, original]), path)
                else:
                    self._add_photo(path, entry.name)

    def _add_folder(self, path: str, entry: os.DirEntry[str]) -> None:
        self._folders.add(normalize_path(path))
        self._folder_names.add(normalize_path(entry.name))
        if entry.is_symlink():
            self.linked_folders.add(path)

    def _add_photo(self, path: str, name: str) -> None:
        self.photos.add(path, path)
        if prefix := UPLOAD_PREFIX.match(name):
            self.uploads.setdefault(normalize_path(name[prefix.end() :]), []).append(path)


def _walk(folder: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield the relative path and the entries of each folder, the outer ones first.

    Names that are not UTF-8 are left out: they cannot be written to the manifest.
    """
    pending = deque([""])
    while pending:
        parent = pending.popleft()
        entries = _scan(folder / parent, is_top=not parent)
        yield parent, entries
        if parent.count("/") < _MAX_DEPTH:
            names = (entry.name for entry in entries if _is_real_folder(entry))
            pending.extend(f"{parent}/{name}" if parent else name for name in names)


def _is_real_folder(entry: os.DirEntry[str]) -> bool:
    return not entry.is_symlink() and _call_or_false(entry.is_dir)


def _scan(folder: Path, is_top: bool) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            listed = [entry for entry in entries if not _is_skipped(entry)]
    except OSError:  # a sub-folder without permission: its photos are missing
        if is_top:
            raise
        return []
    return sorted(listed, key=lambda entry: entry.name)


def _is_skipped(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    is_utf8 = name.encode(errors="ignore").decode() == name
    is_hidden_folder = name.startswith(".") and _call_or_false(entry.is_dir)
    return is_junk(name) or is_hidden_folder or not is_utf8


def _call_or_false(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a circle of symlinks, or a name too long for the file system
        return False
