"""Index of the photo folder: the filename of a row -> the file and the kind of match.

The folder is listed once. Never returns a path outside it ('..' and symlinks are checked).
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import suggest_path
from mondrian.critique.rejection import RejectionReason

UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}_", re.IGNORECASE)
_MAX_NAME_LENGTH = 255  # characters; no file system has longer names
_THUMB_FOLDERS = ("thumbnails", "thumbs", "thumb")
_THUMB_NAME = re.compile(r"^thumb(?:nail)?_|[-_]thumb(?:nail)?\.\w+$", re.IGNORECASE)


class PhotoIndex:
    """The photos of a folder, and its thumbnails if `use_thumbnails` is set."""

    def __init__(self, folder: Path, use_thumbnails: bool) -> None:
        """Raise DataError if the folder does not exist."""
        if not folder.is_dir():
            hint = suggest_path(folder)
            raise DataError(f"{folder} is not a folder of photos{hint}; set it with --source_dir")
        self._folder, self._resolved_folder = folder, folder.resolve()
        self._use_thumbnails = use_thumbnails
        with os.scandir(folder) as entries:
            # Without names that are not UTF-8: they cannot be written to the manifest.
            listed = [e for e in entries if e.name.encode(errors="ignore").decode() == e.name]
        self._names = {entry.name for entry in listed if _call_or_false(entry.is_file)}
        self._links = {entry.name for entry in listed if entry.is_symlink()}
        self._folders = {entry.name for entry in listed if _call_or_false(entry.is_dir)}
        counts = Counter(map(_normalize_name, self._names))
        unique = (name for name in self._names if counts[_normalize_name(name)] == 1)
        self._name_by_normalized = {_normalize_name(name): name for name in unique}

    def find(self, filename: str) -> tuple[Path, str]:
        """Return the photo that a row names, and the kind of match.

        Kinds: as_stored, without_upload_prefix, other_spelling, thumbnail.
        Raises PhotoError (image_missing, image_outside_source).
        """
        if not filename:
            raise PhotoError(RejectionReason.IMAGE_MISSING, "the row names no photo")
        posix_path = filename.replace("\\", "/")
        name = posix_path.rsplit("/", 1)[-1]
        possible = len(name) <= _MAX_NAME_LENGTH
        match = self._find_by_path(posix_path) or self._find_by_name(name) if possible else None
        if match is not None and (self._use_thumbnails or not _is_thumbnail(match[0])):
            return self._check_inside_folder(*match)
        thumbnail = self._find_thumbnail(UPLOAD_PREFIX.sub("", name)) if possible else None
        if thumbnail is not None and self._use_thumbnails:
            return self._check_inside_folder(thumbnail, "thumbnail")
        detail = f"no {filename[-80:]!r} in {self._folder}"
        if match is not None or thumbnail is not None:
            detail += "; only a thumbnail, which link.thumbnails: use accepts"
        raise PhotoError(RejectionReason.IMAGE_MISSING, detail)

    def _find_by_name(self, name: str) -> tuple[Path, str] | None:
        without_prefix = UPLOAD_PREFIX.sub("", name)
        if name in self._names:
            return self._folder / name, "as_stored"
        if without_prefix in self._names:
            return self._folder / without_prefix, "without_upload_prefix"
        for candidate in (name, without_prefix):
            if actual := self._name_by_normalized.get(_normalize_name(candidate)):
                return self._folder / actual, "other_spelling"
        return None

    def _find_by_path(self, relative_path: str) -> tuple[Path, str] | None:
        """Find a file in a subfolder by its path relative to the photo folder."""
        if "/" not in relative_path or "\x00" in relative_path:
            return None
        parts = PurePosixPath(relative_path).parts
        if len(parts) < 2 or parts[0] not in self._folders or ".." in parts:
            return None
        path = self._folder.joinpath(*parts)
        return (path, "as_stored") if _call_or_false(path.is_file) else None

    def _find_thumbnail(self, name: str) -> Path | None:
        stem, dot, ending = name.rpartition(".")
        candidates = [f"thumb_{name}", f"thumbnail_{name}"]
        if dot:
            candidates += [f"{stem}{end}.{ending}" for end in ("_thumb", "-thumb", "_thumbnail")]
        for candidate in candidates:
            if candidate in self._names:
                return self._folder / candidate
        for folder in _THUMB_FOLDERS:
            if match := self._find_by_path(f"{folder}/{name}"):
                return match[0]
        return None

    def _check_inside_folder(self, path: Path, match_kind: str) -> tuple[Path, str]:
        """Raise PhotoError if a symlink leads out of the folder."""
        is_direct = path.parent == self._folder and path.name not in self._links
        if not is_direct and not path.resolve().is_relative_to(self._resolved_folder):
            detail = f"{path.relative_to(self._folder)} leads outside {self._folder}"
            raise PhotoError(RejectionReason.IMAGE_OUTSIDE_SOURCE, detail)
        return path, match_kind


def _call_or_false(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a circle of symlinks, or a name too long for the file system
        return False


def _is_thumbnail(path: Path) -> bool:
    return path.parent.name.lower() in _THUMB_FOLDERS or bool(_THUMB_NAME.search(path.name))


def _normalize_name(name: str) -> str:
    """Return a name as file systems compare it that ignore case and composition."""
    return normalize("NFC", name).casefold()
