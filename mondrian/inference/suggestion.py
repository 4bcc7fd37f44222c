"""Suggest photos of a listing to critique next; every other photo is counted with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.errors import one_line
from mondrian.core.params import ImageParams
from mondrian.core.terminal import format_table
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.data.photos.photo_scan import scan_photos
from mondrian.inference.photo_coverage import NO_POINT, choose_photos, standardize
from mondrian.inference.photo_files import PhotoFile, PhotoListing
from mondrian.inference.photo_vectors import PhotoVectors


@dataclass(frozen=True)
class SuggestedPhoto:
    """A photo, and how far the nearest one is that is critiqued or suggested before it."""

    file: PhotoFile
    distance: float | None
    nearest: PhotoFile | None


@dataclass(frozen=True)
class PhotoGroups:
    """The photos of a listing; one of each group of near-duplicates is a candidate."""

    critiqued: list[PhotoFile]  # readable ones, of the listing or not; one of each group
    candidates: list[PhotoFile] = field(default_factory=list)
    known: list[tuple[PhotoFile, PhotoFile]] = field(default_factory=list)  # and the critiqued one
    copies: list[tuple[PhotoFile, PhotoFile]] = field(default_factory=list)  # and the candidate


def group_photos(
    listing: PhotoListing, critiqued: Sequence[Path], image_params: ImageParams, cache: Path
) -> PhotoGroups:
    """Group photos with those that are critiqued; photos that cannot be read are skipped."""
    paths = [photo.path for photo in listing.photos]
    infos = dict(scan_photos(list(dict.fromkeys([*critiqued, *paths])), cache))
    fingerprints = {i.sha256: i.fingerprint for i in infos.values() if not i.reason}
    group_of = group_near_duplicates(fingerprints, image_params, cache / "suggest")
    first: dict[str, PhotoFile] = {}
    for path in critiqued:
        if not infos[path].reason:
            name = group_of[infos[path].sha256].name
            first.setdefault(name, PhotoFile(path, infos[path].sha256))
    groups = PhotoGroups(list(first.values()))
    known = set(first)
    for photo in listing.photos:
        info = infos[photo.path]
        if info.reason:
            listing.skip(photo.path, info.reason, info.detail)
            continue
        name = group_of[info.sha256].name
        if name in first:
            (groups.known if name in known else groups.copies).append((photo, first[name]))
        else:
            first[name] = photo
            groups.candidates.append(photo)
    return groups


class PhotoSuggestions:
    """The suggested photos of a listing in order, and the candidates that were not chosen."""

    def __init__(self, groups: PhotoGroups, vectors: PhotoVectors, listing: PhotoListing) -> None:
        self.groups, self.photos = groups, list[SuggestedPhoto]()
        vectors.compute([*groups.critiqued, *groups.candidates])
        for photo in groups.candidates:
            if fault := vectors.faults.get(photo.sha256):
                listing.skip(photo.path, fault.reason, one_line(fault))
        self._critiqued = [p for p in groups.critiqued if vectors.get(p.sha256) is not None]
        self._candidates = [p for p in groups.candidates if vectors.get(p.sha256) is not None]
        self._vectors = [vectors.get(p.sha256) for p in (*self._critiqued, *self._candidates)]

    def choose(self, count: int) -> None:
        if not self._candidates:
            return
        points = standardize(np.array(self._vectors))
        num_critiqued = len(self._critiqued)
        files = [*self._critiqued, *self._candidates]
        for choice in choose_photos(points[num_critiqued:], points[:num_critiqued], count):
            has_nearest = choice.nearest != NO_POINT
            distance = round(choice.distance, 3) if has_nearest else None
            nearest = files[choice.nearest] if has_nearest else None
            self.photos.append(SuggestedPhoto(self._candidates[choice.index], distance, nearest))

    @property
    def num_critiqued(self) -> int:
        return len(self._critiqued)

    def others(self) -> list[PhotoFile]:
        """Return the candidates that were not chosen."""
        chosen = {photo.file for photo in self.photos}
        return [photo for photo in self._candidates if photo not in chosen]

    def describe(self, folder: Path) -> str:
        """Return a table; names are relative to the folder if they are in it."""
        rows = [
            [
                f"{rank:>3}  {_name_in(folder, photo.file)}",
                "" if photo.distance is None else f"{photo.distance:.2f}",
                self._name_nearest(photo),
            ]
            for rank, photo in enumerate(self.photos, 1)
        ]
        return format_table(["     photo", "distance", "to the nearest"], rows)

    def _name_nearest(self, photo: SuggestedPhoto) -> str:
        if photo.nearest is None:
            return "the most typical one"
        ranks = {other.file: rank for rank, other in enumerate(self.photos, 1)}
        rank = ranks.get(photo.nearest)
        return f"number {rank}" if rank else f"critiqued {photo.nearest.path.name}"

    def to_json(self, listing: PhotoListing) -> dict[str, Any]:
        """Return each file of the listing once."""
        return {
            "suggested": [
                {
                    "photo": photo.file.name,
                    "distance": photo.distance,
                    "nearest": photo.nearest and photo.nearest.name,
                }
                for photo in self.photos
            ],
            "not_suggested": [photo.name for photo in self.others()],
            "critiqued": [{"photo": a.name, "shows": b.name} for a, b in self.groups.known],
            "near_duplicates": [{"photo": a.name, "shows": b.name} for a, b in self.groups.copies],
            "skipped": [
                {"photo": file.name, "reason": file.reason, "detail": file.detail}
                for file in listing.skipped
            ],
        }


def _name_in(folder: Path, photo: PhotoFile) -> str:
    path = photo.path
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
