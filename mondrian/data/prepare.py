"""prepare: linked records, and where each goes -> chat rows and the pictures they show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import atomic_folder, file_hash
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.parallel import split_into_batches, spread
from mondrian.core.params import Image
from mondrian.critique.prompt import prompt_hash, row_messages
from mondrian.critique.rows import ChatRow, row_file
from mondrian.critique.schema import serialize_critique
from mondrian.data.manifest import Manifest, ManifestRecord, Photo
from mondrian.data.split import SPLIT_PARTS, DatasetSplit

IMAGES = "images"
OUTPUT_PATTERNS = (f"{IMAGES}/{'[0-9a-f]' * 16}.png", "training_data_*.json")
_BATCH, _ALONE = 8, 8  # pictures written at a time, and batches that are not worth a process


def check_advisor(manifest: Manifest, advisor: str) -> None:
    """Raise DataError where a manifest is another advisor's."""
    if manifest.advisor != advisor:
        raise DataError(f"{manifest.path} is of advisor {manifest.advisor!r}, not {advisor!r}")


def write_split(
    manifest: Manifest, result: DatasetSplit, persona: str, image: Image, folder: Path
) -> None:
    """Write the rows of each part and their pictures, at the one size and without metadata.

    Raises DataError where a photograph is no longer what link saw.
    """
    with atomic_folder(folder, OUTPUT_PATTERNS) as beside:
        (beside / IMAGES).mkdir()
        photos = {}
        with ExitStack() as stack:
            lists = {
                part: stack.enter_context(_JsonListWriter(row_file(beside, manifest.advisor, part)))
                for part in SPLIT_PARTS
                if result.groups_of(part)
            }
            for i, record in enumerate(manifest.records()):
                row = _row(record, result, i, manifest.advisor, persona, folder)
                lists[result.parts[i]].add(row)
                photos[record.photo.sha256] = record.photo
        _write_pictures(list(photos.values()), image, beside / IMAGES)


class _JsonListWriter:
    """A JSON list written one row a line."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", newline="\n")
        self._between = "[\n"

    def __enter__(self) -> _JsonListWriter:
        return self

    def add(self, row: ChatRow) -> None:
        self._file.write(self._between + json.dumps(row.model_dump(), ensure_ascii=False))
        self._between = ",\n"

    def __exit__(self, *_: object) -> None:
        self._file.write("\n]\n")
        self._file.close()


def _row(
    record: ManifestRecord, result: DatasetSplit, i: int, advisor: str, persona: str, folder: Path
) -> ChatRow:
    return ChatRow(
        messages=row_messages(persona, serialize_critique(record.critique)),
        images=[(folder / IMAGES / _picture_name(record.photo)).as_posix()],
        id=f"{advisor}/{record.job_id}",
        photo=record.photo.sha256,
        photo_group=result.groups[i],
        derived=[r.removeprefix("summary ") for r in record.repairs if r.startswith("summary ")],
        fold=result.folds[i],
        prompt_hash=prompt_hash(persona),
    )


def _picture_name(photo: Photo) -> str:
    return f"{photo.sha256[:16]}.png"


@dataclass(frozen=True)
class _ImageOutput:
    image: Image
    folder: Path


def _write_pictures(photos: Sequence[Photo], image: Image, folder: Path) -> None:
    with tqdm(total=len(photos), desc="pictures", unit="photo", leave=False) as bar:
        for written in spread(
            _write_batch, _ImageOutput(image, folder), split_into_batches(photos, _BATCH), _ALONE
        ):
            bar.update(written)


def _write_batch(frame: _ImageOutput, photos: list[Photo]) -> int:
    for photo in photos:
        path = Path(photo.path)
        try:
            picture = read_photo(path)  # link has judged what it shows
        except PhotoError as error:
            raise DataError(f"{path}: {error}; link found it whole: run link again") from None
        if file_hash(path) != photo.sha256:
            raise DataError(f"{path} is another photograph than when link ran: run link again")
        small = resize_to_fit(picture, frame.image.min_pixels, frame.image.max_pixels)
        small.save(frame.folder / _picture_name(photo))
    return len(photos)


def format_split_summary(result: DatasetSplit, advisor: str) -> str:
    """What a person wants to know, in one line."""
    counts = result.counts()
    parts = ", ".join(
        f"{counts[part]['critiques']} {part} of {counts[part]['photo_groups']} photos"
        for part in SPLIT_PARTS
    )
    return f"prepare {advisor}: {parts}; largest group {counts['largest_group']}"
