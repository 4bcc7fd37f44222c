"""Index of the photo folder: the stored path of a photo -> the file and the kind of match.

A stored path may be of another machine, so the longest ending that exists here wins. If the
folder of a path exists here without the file, the path has no photo: a file of that name in another
folder is another photo. Nothing outside the folder is returned.
"""

import filecmp
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import suggest_path
from mondrian.critique.rejection import RejectionReason
from mondrian.data.photos.photo_listing import PathTable, PhotoListing
from mondrian.data.photos.stored_path import (
    StoredPath,
    is_ending,
    normalize_path,
    normalized_paths,
    parse_stored_path,
)

_MAX_NAME_LENGTH = 255  # characters; no file system has longer names


class MatchKind(StrEnum):
    """How a stored path led to a file, from the most to the least certain."""

    AS_STORED = "as_stored"  # its path in the source folder
    PATH_ENDING = "path_ending"  # the path of another machine ends in its path in the source folder
    OTHER_SPELLING = "other_spelling"  # another case, or composed instead of decomposed letters
    WITHOUT_UPLOAD_PREFIX = "without_upload_prefix"  # without `<uuid>_`
    IN_SUBFOLDER = "in_subfolder"  # in a sub-folder that was not stored; no other file fits
    NAME_ONLY = "name_only"  # its folder does not exist here; no other file has its name
    THUMBNAIL = "thumbnail"  # only a thumbnail exists


_KINDS = tuple(MatchKind)
CERTAIN_KINDS = _KINDS[:3]


@dataclass(frozen=True)
class PhotoMatch:
    """A photo, and how sure it is.

    assumed_source  the stored folders that must have been the source folder of another machine,
                    normalized; empty if that is certain, None if the path names no folder
    """

    path: Path
    kind: MatchKind
    assumed_source: str | None = ""


class PhotoIndex:
    """The photos of a folder, and its thumbnails if `use_thumbnails` is set."""

    def __init__(self, folder: Path, use_thumbnails: bool) -> None:
        """Raise DataError if the folder does not exist."""
        if not folder.is_dir():
            hint = suggest_path(folder)
            raise DataError(f"{folder} is not a folder of photos{hint}; set it with --source_dir")
        self.folder, self._resolved_folder = folder, folder.resolve()
        self._source_paths = normalized_paths(folder)
        self._use_thumbnails = use_thumbnails
        self._listing = PhotoListing(folder)

    def find(self, filename: str) -> PhotoMatch:
        """Return the photo that a row names.

        Raises PhotoError (image_missing, image_ambiguous, image_outside_source).
        """
        if not filename:
            raise PhotoError(RejectionReason.IMAGE_MISSING, "the row names no photo")
        if filename in self._listing.photos.files:
            return self._make_match(filename, [MatchKind.AS_STORED])
        stored = parse_stored_path(filename, self._source_paths)
        if len(stored.names[0]) <= _MAX_NAME_LENGTH:
            match = self._search(self._listing.photos, stored)
            if match is None and self._use_thumbnails:
                match = self._search(self._listing.thumbnails, stored)
            if match is not None:
                return match
        detail = f"no {filename[-80:]!r} in {self.folder}{self._suggest(stored)}"
        raise PhotoError(RejectionReason.IMAGE_MISSING, detail)

    def _search(self, table: PathTable, stored: StoredPath) -> PhotoMatch | None:
        if not stored.is_upload:
            return self._find_ending(table, stored) or self._find_elsewhere(table, stored)
        full, original = (replace(stored, names=(name,)) for name in stored.names)
        match = self._find_ending(table, full) or self._find_bare(table, full)
        if match is None and (match := self._find_bare(table, original)):
            self._check_uploads(match.path, original.names[0])
            kind = max(match.kind, MatchKind.WITHOUT_UPLOAD_PREFIX, key=_KINDS.index)
            match = replace(match, kind=kind)
        return match and replace(match, assumed_source=None)

    def _find_bare(self, table: PathTable, stored: StoredPath) -> PhotoMatch | None:
        bare = StoredPath((), stored.names, frozenset({0}))
        return self._find_ending(table, bare) or self._find_elsewhere(table, bare)

    def _find_ending(self, table: PathTable, stored: StoredPath) -> PhotoMatch | None:
        """Find the longest ending of the path that is a path in the photo folder."""
        for start in range(len(stored.folders) + 1):
            is_certain = start in stored.starts or not start
            folders = stored.folders[start:]
            if not folders and start not in stored.starts:
                return None
            assumed = "" if is_certain else _join(stored.folders[:start])
            kind = MatchKind.PATH_ENDING if start else MatchKind.AS_STORED
            for name in stored.names:
                path = "/".join([*folders, name])
                if match := self._find_path(table, path, [kind, _name_kind(stored, name)]):
                    return replace(match, assumed_source=assumed)
            if self._has_folder(stored, start):
                return None
        return None

    def _find_path(self, table: PathTable, path: str, kinds: list[MatchKind]) -> PhotoMatch | None:
        listed_path = table.find_path(path)
        if listed_path is not None:
            is_exact = listed_path == path
            kinds = [*kinds, MatchKind.AS_STORED if is_exact else MatchKind.OTHER_SPELLING]
            file = table.files[listed_path]
            kinds += [MatchKind.THUMBNAIL] if file != listed_path else []
            return self._make_match(file, kinds)
        if self._listing.leads_through_link(path):
            return self._make_match(path, kinds)
        return None

    def _find_elsewhere(self, table: PathTable, stored: StoredPath) -> PhotoMatch | None:
        """Find the only file in a deeper folder that ends in the stored ones, or of that name.

        None if the stored folder exists here, or if that file's folder is another.
        """
        if any(self._has_folder(stored, start) for start in range(len(stored.folders))):
            return None
        files = self._find_names(table, stored)
        for name, paths in files.items():
            deeper = [p for p in paths if is_ending(stored.subfolders, p.split("/")[:-1])]
            if deeper and (path := self._select(deeper, stored)):
                kinds = [MatchKind.IN_SUBFOLDER, _name_kind(stored, name)]
                match = self._find_path(table, path, kinds)
                return match and replace(match, assumed_source=None)
        if self._listing.has_folder_name(stored.folders[-1:]):
            return None
        for paths in files.values():
            path = self._select(paths, stored)
            if "/" not in path:
                match = self._find_path(table, path, [MatchKind.NAME_ONLY])
                return match and replace(match, assumed_source=_join(stored.folders))
        return None

    def _find_names(self, table: PathTable, stored: StoredPath) -> dict[str, list[str]]:
        files = {name: table.find_name(name) for name in stored.names}
        return {name: paths for name, paths in files.items() if paths}

    def _select(self, paths: list[str], stored: StoredPath) -> str:
        """Return the only path, or raise PhotoError; links to one file count once."""
        first, *others = paths
        if others and not self._is_one_file(paths):
            name = "/".join([*stored.folders, stored.names[0]])
            detail = f"{name[-80:]!r} may be {first!r} or {others[0]!r} in {self.folder}"
            raise PhotoError(RejectionReason.IMAGE_AMBIGUOUS, detail)
        return first

    def _is_one_file(self, paths: list[str]) -> bool:
        if self._listing.linked_files.isdisjoint(paths):
            return False
        return len({(self.folder / path).resolve() for path in paths}) == 1

    def _check_uploads(self, path: Path, name: str) -> None:
        """Raise PhotoError if an upload of that name is another photo than the file."""
        for upload in self._listing.uploads.get(normalize_path(name), []):
            if not _is_same_content(path, self.folder / upload):
                detail = f"{name!r} was uploaded more than once: {upload!r} is another photo"
                raise PhotoError(RejectionReason.IMAGE_AMBIGUOUS, detail)

    def _has_folder(self, stored: StoredPath, start: int) -> bool:
        """Return whether the stored folder from `start` on exists here, or at least begins here."""
        folders = stored.folders[start:]
        is_below_source = start >= min(stored.starts)
        begins_here = bool(folders) and is_below_source and self._listing.has_folder(folders[:1])
        return begins_here or self._listing.has_folder(folders)

    def _suggest(self, stored: StoredPath) -> str:
        """Return what else a message about a missing photo says."""
        with suppress(PhotoError):
            if self._search(self._listing.thumbnails, stored):
                return "; only a thumbnail, which link.thumbnails: use accepts"
        files = self._find_names(self._listing.photos, stored)
        path = next((paths[0] for paths in files.values()), None)
        return f"; {path!r} has its name, but another folder" if path else ""

    def _make_match(self, path: str, kinds: list[MatchKind]) -> PhotoMatch:
        """Raise PhotoError if a link leads out of the folder."""
        full_path = self.folder / path
        is_linked = path in self._listing.linked_files or self._listing.leads_through_link(path)
        if is_linked and not full_path.resolve().is_relative_to(self._resolved_folder):
            detail = f"{path} leads outside {self.folder}"
            raise PhotoError(RejectionReason.IMAGE_OUTSIDE_SOURCE, detail)
        return PhotoMatch(full_path, max(kinds, key=_KINDS.index))


def _is_same_content(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return filecmp.cmp(path, other, shallow=False)
    return False  # unreadable


def _name_kind(stored: StoredPath, name: str) -> MatchKind:
    is_full = name == stored.names[0]
    return MatchKind.AS_STORED if is_full else MatchKind.WITHOUT_UPLOAD_PREFIX


def _join(folders: tuple[str, ...]) -> str:
    return normalize_path("/".join(folders))
