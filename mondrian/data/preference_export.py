"""Stage preferences: pairs with usable photos -> preference rows and resized images.

A photo that resembles one of test, or was taken on a walk of test, is left out. One that belongs to
a photo of val or train gets its group, by which `train` keeps pairs of val out of training.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import open_atomic_folder, write_text
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import ImageParams
from mondrian.critique.preference_rows import PreferenceRow, preferences_path
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.critique.rows import ChatRow, read_rows, row_path
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.data.photos.photo_index import PhotoIndex
from mondrian.data.photos.photo_scan import PhotoInfo, scan_photos
from mondrian.data.preferences import (
    LEFT_OUT_REASONS,
    PAIR_REASONS,
    PreferencePair,
    RatedCritique,
    find_pairs,
)
from mondrian.data.prepare import IMAGE_PATTERN, image_path
from mondrian.data.split import SPLIT_PARTS, unite_names
from mondrian.data.walks import link_walks

EXPORT_PATTERNS = (IMAGE_PATTERN, "preferences_*.jsonl")
PairPhotos = Mapping[str, tuple[Path, PhotoInfo]]  # path and info by filename
RowsByPart = dict[str, list[ChatRow]]


@dataclass(frozen=True)
class PhotoSplit:
    """Where a photo belongs by the prepared rows; one that belongs to none of them is in train."""

    group: str
    part: str = "train"


@dataclass(frozen=True)
class PairSet:
    """The usable pairs of an advisor, and the number of all others by reason."""

    advisor: str
    pairs: list[PreferencePair]
    photos: PairPhotos
    splits: Mapping[str, PhotoSplit]  # by filename
    counts: Counter[str]
    has_split: bool  # whether photos were compared with prepared rows

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/preferences.json."""
        return {
            "rated": self.counts["judged"],
            "train": self._count_part("train"),
            "val": self._count_part("val"),
            "pairs": dict(Counter(pair.reason for pair in self.pairs)),
            "left_out": {name: n for name in LEFT_OUT_REASONS if (n := self.counts[name])},
        }

    def summary(self) -> str:
        reasons = _format_counts(Counter(pair.reason for pair in self.pairs), PAIR_REASONS)
        left_out = _format_counts(self.counts, LEFT_OUT_REASONS)
        photos = {pair.chosen_source.photo for pair in self.pairs}
        lines = [
            f"preferences {self.advisor}: {self.counts['judged']} rated critiques → "
            f"{len(self.pairs)} pairs from {len(photos)} photos{f': {reasons}' if reasons else ''}"
        ]
        train, val = self._count_part("train"), self._count_part("val")
        if val:
            lines.append(f"  {train} to train on, {val} of val photos to measure preferences")
        lines += [f"  left out: {left_out}"] if left_out else []
        return "\n".join(lines)

    def _count_part(self, part: str) -> int:
        return sum(self.splits[pair.filename].part == part for pair in self.pairs)


def _format_counts(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return " · ".join(f"{name} {counts[name]}" for name in names if counts.get(name))


@dataclass(frozen=True)
class PairSources:
    advisor: str
    folders: ApplicationFolders
    prepared_dir: Path | None  # rows of `prepare`; None: no photo is held out
    cache_dir: Path
    session_minutes: int  # of a walk, as in prepare
    held_out_parts: tuple[str, ...] = ("test",)  # val measures preferences


def collect_pairs(
    critiques: Iterable[RatedCritique],
    sources: PairSources,
    image_params: ImageParams,
    counts: Counter[str],
) -> PairSet:
    """Pair critiques and find their photos; `counts` gets the pairs left out by reason.

    Raises DataError if photos or prepared rows are missing.
    """
    candidates, left_out = find_pairs(critiques)
    counts.update(left_out)
    source, cache_dir = sources.folders.source, sources.cache_dir
    photos = find_pair_photos(candidates, source, cache_dir) if candidates else {}
    rows = _read_rows_by_part(sources) if candidates and sources.prepared_dir else {}
    splits = split_photos(photos, rows, image_params, sources)
    held_out = sources.held_out_parts
    existing = [pair for pair in candidates if pair.filename in photos]
    pairs = [pair for pair in existing if splits[pair.filename].part not in held_out]
    counts["photo_missing"] += len(candidates) - len(existing)
    counts["held_out"] += len(existing) - len(pairs)
    return PairSet(sources.advisor, pairs, photos, splits, counts, sources.prepared_dir is not None)


def _read_rows_by_part(sources: PairSources) -> RowsByPart:
    assert sources.prepared_dir is not None
    paths = {part: row_path(sources.prepared_dir, sources.advisor, part) for part in SPLIT_PARTS}
    return {
        part: read_rows(path) for part, path in paths.items() if part != "test" or path.exists()
    }


def find_pair_photos(pairs: Iterable[PreferencePair], source: Path, cache_dir: Path) -> PairPhotos:
    """Return path and info of each photo by its filename in the jobs, if it is usable."""
    index, paths = PhotoIndex(source, use_thumbnails=False), {}
    for filename in {pair.filename for pair in pairs}:
        with suppress(PhotoError):
            match = index.find(filename)
            if not match.assumed_source:  # else another row may name that photo
                paths[filename] = match.path
    infos = dict(scan_photos(sorted(set(paths.values())), cache_dir))
    noted_times = {pair.filename: pair.chosen_source.captured for pair in pairs}
    return {
        name: (path, replace(info, captured=info.captured or noted_times[name]))
        for name, path in paths.items()
        if not (info := infos[path]).reason
    }


def split_photos(
    photos: PairPhotos, rows: RowsByPart, image_params: ImageParams, sources: PairSources
) -> dict[str, PhotoSplit]:
    """Return the split of each photo: that of a near-duplicate in rows, else that of its walk.

    If rows of several parts qualify, test is before val, and val before train.
    """
    row_by_path = {Path(row.images[0]): (row, part) for part in rows for row in rows[part]}
    row_infos = {path: info for path, info in scan_photos(list(row_by_path), sources.cache_dir)}
    pair_infos = [info for _, info in photos.values()]
    groups = group_near_duplicates(
        {i.sha256: i.fingerprint for i in (*pair_infos, *row_infos.values()) if not i.reason},
        image_params,
    )
    splits: dict[str, PhotoSplit] = {}  # by near-duplicates
    times = [(groups[info.sha256].name, info.captured) for info in pair_infos]
    for path, (row, part) in row_by_path.items():  # later parts replace earlier ones
        if not row_infos[path].reason:
            name = groups[row_infos[path].sha256].name
            splits[name] = PhotoSplit(row.photo_group, part)
            times.append((name, row.captured))
    walks = _find_walks(times, sources.session_minutes)
    by_part = sorted(splits.items(), key=lambda item: SPLIT_PARTS.index(item[1].part))
    walk_splits = {walks[name]: split for name, split in by_part}
    result = {}
    for filename, (_, info) in photos.items():
        name = groups[info.sha256].name
        split = splits.get(name) or walk_splits.get(walks[name])
        result[filename] = split or PhotoSplit(info.sha256)
    return result


def _find_walks(times: Sequence[tuple[str, str]], minutes: int) -> dict[str, str]:
    """Return the walk of each photo; `times` are photos and when they were taken."""
    names = list(dict.fromkeys(name for name, _ in times))
    return dict(zip(names, unite_names(names, link_walks(times, minutes)), strict=True))


def write_pairs(pair_set: PairSet, persona: str, image_params: ImageParams, folder: Path) -> Path:
    """Write rows and resized images without metadata; return the file of the rows."""
    advisor = pair_set.advisor
    with open_atomic_folder(folder, EXPORT_PATTERNS) as staging:
        lines = []
        for pair in pair_set.pairs:
            path, info = pair_set.photos[pair.filename]
            image = image_path(staging, info.sha256)
            if not image.exists():
                _write_image(path, image_params, image)
            row = PreferenceRow(
                messages=build_row_messages(persona, pair.chosen),
                rejected=pair.rejected,
                images=[image_path(folder, info.sha256).as_posix()],
                id=f"{advisor}/{pair.jobs}",
                photo=info.sha256,
                photo_group=pair_set.splits[pair.filename].group,
                prompt_hash=prompt_hash(persona),
            )
            lines.append(row.format_line(pair.provenance()) + "\n")
        write_text(preferences_path(staging, advisor), "".join(lines))
    return preferences_path(folder, advisor)


def _write_image(photo: Path, image_params: ImageParams, path: Path) -> None:
    try:
        pixels = read_photo(photo)
    except PhotoError as error:
        raise DataError(f"{photo}: {error}; it changed during this run: run again") from None
    path.parent.mkdir(exist_ok=True)
    resize_to_fit(pixels, image_params.min_pixels, image_params.max_pixels).save(path)
