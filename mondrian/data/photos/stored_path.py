"""Stored paths of photos in parts, whichever system wrote them. Nothing is decoded or expanded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}_", re.IGNORECASE)
_UPLOAD_FOLDER = "uploads"  # the application's own; it does not say where a photo was before
_APPLICATION_SOURCE = ("mondrian", "source")


@dataclass(frozen=True)
class StoredPath:
    folders: tuple[str, ...]  # without a drive; `..` only at the start
    names: tuple[str, ...]  # of the file; a second one is without the upload prefix
    starts: frozenset[int]  # folders[start:] are known to be in the source folder, for each start

    @property
    def is_upload(self) -> bool:
        """Whether its folder is that of uploads, or it has none: the original folder is unknown."""
        is_bare = len(self.folders) in self.starts
        is_in_uploads = [normalize_path(f) for f in self.folders[-1:]] == [_UPLOAD_FOLDER]
        return len(self.names) > 1 and (is_bare or is_in_uploads)

    @property
    def subfolders(self) -> tuple[str, ...]:
        """The folders of which none is known to be above the source folder."""
        return self.folders[min(self.starts) :]


def normalize_path(path: str) -> str:
    """Return a path as file systems compare it that ignore case and composition."""
    return normalize("NFC", path).casefold()


def normalized_paths(folder: Path) -> list[list[str]]:
    """Return the parts of the folder's path, and of the path that it is a link to."""
    paths = (folder.absolute(), folder.resolve())
    return [split_path(normalize_path(str(path))) for path in paths]


def parse_stored_path(filename: str, source_paths: Sequence[Sequence[str]]) -> StoredPath:
    """Split a path of any system, and find the source folder's own path or name in it.

    source_paths  normalized_paths of the source folder
    """
    *folders, name = split_path(filename) or [""]
    normalized = [normalize_path(part) for part in folders]
    for own in source_paths:
        if filename.startswith("/") and normalized[: len(own)] == own:
            folders, normalized = folders[len(own) :], []  # a path of this machine
    own_names = {own[-1] for own in source_paths if own}
    starts = {
        i + 1
        for i, folder in enumerate(normalized)
        if folder in own_names or tuple(normalized[max(i - 1, 0) : i + 1]) == _APPLICATION_SOURCE
    }
    names = dict.fromkeys((name, UPLOAD_PREFIX.sub("", name)))
    return StoredPath(tuple(folders), tuple(names), frozenset(starts or {0}))


def split_path(path: str) -> list[str]:
    """Return the parts of a path with slashes or backslashes, without a drive, '.' and 'a/..'."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts[1:] if parts and re.fullmatch("[A-Za-z]:", parts[0]) else parts


def is_ending(ending: Sequence[str], folders: Sequence[str]) -> bool:
    """Return whether folders end in these, in any spelling."""
    start = len(folders) - len(ending)
    return start >= 0 and all(
        normalize_path(a) == normalize_path(b) for a, b in zip(ending, folders[start:], strict=True)
    )
