"""The folder of photographs: a name as a row has it -> the file, and how it was found.

The folder is listed once. Nothing outside it is ever given, whatever a name says or a link does.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from mondrian.core.errors import DataError, PhotoError
from mondrian.critique.rejection import RejectionReason

UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}_", re.IGNORECASE)
_MAX_NAME_LENGTH = 255  # characters; no file system knows a longer name
_THUMB_FOLDERS = ("thumbnails", "thumbs", "thumb")
_THUMB_NAME = re.compile(r"^thumb(?:nail)?_|[-_]thumb(?:nail)?\.\w+$", re.IGNORECASE)


class PhotoIndex:
    """Names of the files in a folder of photographs, and those of its thumbnails if asked for."""

    def __init__(self, folder: Path, thumbnails: bool) -> None:
        """Raises DataError where there is no such folder."""
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of photographs; give it with --source_dir")
        self._folder, self._real = folder, folder.resolve()
        with os.scandir(folder) as entries:
            listed = {entry.name: entry for entry in entries if _is_text(entry.name)}
        self._names = {name for name, e in listed.items() if _call_or_false(e.is_file)}
        self._links = {name for name, e in listed.items() if e.is_symlink()}
        self._folders = {name for name, e in listed.items() if _call_or_false(e.is_dir)}
        self._thumbnails = thumbnails
        alike = Counter(map(_normalize_name, self._names))
        self._spelt = {_normalize_name(n): n for n in self._names if alike[_normalize_name(n)] == 1}

    def find(self, stored: str) -> tuple[Path, str]:
        """The photograph that a row names, and how: as_stored, without_upload_prefix,
        other_spelling or thumbnail.

        Raises PhotoError (image_missing, image_outside_source).
        """
        if not stored:
            raise PhotoError(RejectionReason.IMAGE_MISSING, "no photograph is named")
        posix_path = stored.replace("\\", "/")
        name = posix_path.rsplit("/", 1)[-1]
        path = (
            (self._find_by_path(posix_path) or self._find_by_name(name))
            if len(name) <= _MAX_NAME_LENGTH
            else None
        )
        if path is not None and (self._thumbnails or not _is_thumbnail(path[0])):
            return self._check_inside_folder(*path)
        thumbnail = (
            self._find_thumbnail(UPLOAD_PREFIX.sub("", name))
            if len(name) <= _MAX_NAME_LENGTH
            else None
        )
        if thumbnail is not None and self._thumbnails:
            return self._check_inside_folder(thumbnail, "thumbnail")
        only = (
            ""
            if path is None and thumbnail is None
            else ("; only a thumbnail, which link.thumbnails: use takes")
        )
        raise PhotoError(
            RejectionReason.IMAGE_MISSING, f"no {stored[-80:]!r} in {self._folder}{only}"
        )

    def _find_by_name(self, name: str) -> tuple[Path, str] | None:
        bare = UPLOAD_PREFIX.sub("", name)
        for candidate, match_kind in ((name, "as_stored"), (bare, "without_upload_prefix")):
            if candidate in self._names:
                return self._folder / candidate, match_kind
        for candidate in (name, bare):
            if right := self._spelt.get(_normalize_name(candidate)):
                return self._folder / right, "other_spelling"
        return None

    def _find_by_path(self, relative_path: str) -> tuple[Path, str] | None:
        """A file in a folder of the album, named by its path from there."""
        if "/" not in relative_path:  # as most names
            return None
        parts = PurePosixPath(relative_path).parts
        if (
            len(parts) < 2
            or parts[0] not in self._folders
            or ".." in parts
            or "\x00" in relative_path
        ):
            return None
        path = self._folder.joinpath(*parts)
        try:
            return (path, "as_stored") if path.is_file() else None
        except OSError:  # a name too long for the file system
            return None

    def _find_thumbnail(self, name: str) -> Path | None:
        stem, dot, ending = name.rpartition(".")
        beside = (f"{start}{name}" for start in ("thumb_", "thumbnail_"))
        ends = (f"{stem}{end}.{ending}" for end in ("_thumb", "-thumb", "_thumbnail") if dot)
        for candidate in (*beside, *ends):
            if candidate in self._names:
                return self._folder / candidate
        for folder in filter(self._folders.__contains__, _THUMB_FOLDERS):
            match = self._find_by_path(f"{folder}/{name}")
            if match is not None:
                return match[0]
        return None

    def _check_inside_folder(self, path: Path, match_kind: str) -> tuple[Path, str]:
        """Follow a link, and refuse it where it leads out."""
        inside = path.parent == self._folder and path.name not in self._links
        if not inside and not path.resolve().is_relative_to(self._real):
            message = f"{path.relative_to(self._folder)} leads outside {self._folder}"
            raise PhotoError(RejectionReason.IMAGE_OUTSIDE_SOURCE, message)
        return path, match_kind


def _call_or_false(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link in a circle
        return False


def _is_text(name: str) -> bool:
    """Whether a name could be written into the manifest."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _is_thumbnail(path: Path) -> bool:
    return path.parent.name.lower() in _THUMB_FOLDERS or bool(_THUMB_NAME.search(path.name))


def _normalize_name(name: str) -> str:
    """A name as file systems that ignore case and composition compare it."""
    return normalize("NFC", name).casefold()
