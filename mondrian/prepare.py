"""prepare: linked records -> chat rows, split by photograph: nothing of val is seen in train."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL.Image import Image as PilImage

from mondrian.critique import canonical
from mondrian.errors import DataError, PhotoError
from mondrian.files import whole_folder, write_text
from mondrian.manifest import Manifest, Record
from mondrian.params import Image, Prepare
from mondrian.photo import fit, open_photo, same_pictures
from mondrian.prompt import prompt_hash, row_messages
from mondrian.rows import Row, row_file, rows_text

IMAGES = "images"


@dataclass(frozen=True)
class Split:
    """Records with their photograph group, on each side."""

    train: list[tuple[Record, str]]
    val: list[tuple[Record, str]]

    def counts(self) -> dict[str, Any]:
        """What metrics/<advisor>/prepare.json holds."""
        groups = {side: len({g for _, g in part}) for side, part in self.parts().items()}
        return {
            "train": len(self.train),
            "val": len(self.val),
            "photo_groups": sum(groups.values()),
            "train_photo_groups": groups["train"],
            "val_photo_groups": groups["val"],
        }

    def parts(self) -> dict[str, list[tuple[Record, str]]]:
        return {"train": self.train, "val": self.val}


def split(manifest: Manifest, params: Prepare, bits: int) -> Split:
    """Deal whole photograph groups to train and val; `bits` is image.phash_distance.

    Raises DataError where either side has fewer than params.yaml asks for.
    """
    groups = _groups(manifest.records, bits)
    order = sorted(groups)
    Random(params.seed).shuffle(order)
    # Many critiques of one photograph are one observation: such a group stays in train.
    small = [name for name in order if len(groups[name]) <= params.max_group_in_val]
    val = set(small[: max(1, round(params.val_share * len(order)))])
    sides: dict[str, list[tuple[Record, str]]] = defaultdict(list)
    for name in sorted(groups):
        sides["val" if name in val else "train"] += [(r, name) for r in groups[name]]
    result = Split(sides["train"], sides["val"])
    _enough(manifest.advisor, result, params)
    return result


def check_advisor(manifest: Manifest, advisor: str, path: Path) -> None:
    """Raise DataError where a manifest is another advisor's."""
    if manifest.advisor != advisor:
        raise DataError(f"{path} is of advisor {manifest.advisor!r}, not {advisor!r}")


def write_split(result: Split, advisor: str, persona: str, image: Image, folder: Path) -> None:
    """Write both parts and the pictures they show, at the one size, without metadata."""
    with whole_folder(folder, (IMAGES, "training_data_*.json")) as beside:
        (beside / IMAGES).mkdir()
        for part, records in result.parts().items():
            rows = [_row(r, group, advisor, persona, folder) for r, group in records]
            write_text(row_file(beside, advisor, part), rows_text(rows))
            for record, _ in records:
                _write_picture(record, image, beside / IMAGES)


def _groups(records: list[Record], bits: int) -> dict[str, list[Record]]:
    """Records by group; a group is named after the first of its photographs."""
    members: dict[int, list[Record]] = defaultdict(list)
    for record, number in zip(
        records, same_pictures([r.photo.phashes for r in records], bits), strict=True
    ):
        members[number].append(record)
    return {min(r.photo.sha256 for r in group)[:16]: group for group in members.values()}


def _enough(advisor: str, result: Split, params: Prepare) -> None:
    counts = result.counts()
    faults = [
        f"{side} has {counts[key]}, at least {least} needed (prepare.min_{side})"
        for side, key, least in (
            ("train", "train", params.min_train),
            ("val", "val_photo_groups", params.min_val),
        )
        if counts[key] < least
    ]
    if faults:
        raise DataError(
            f"prepare {advisor}: too few photographs of {counts['photo_groups']} groups: "
            f"{'; '.join(faults)}; link more critiques or lower the numbers in params.yaml"
        )


def _row(record: Record, group: str, advisor: str, persona: str, folder: Path) -> Row:
    return Row(
        messages=row_messages(persona, canonical(record.critique)),
        images=[(folder / IMAGES / _picture_name(record)).as_posix()],
        id=f"{advisor}/{record.job_id}",
        photo=record.photo.sha256,
        photo_group=group,
        prompt_hash=prompt_hash(persona),
    )


def _picture_name(record: Record) -> str:
    return f"{record.photo.sha256[:16]}.png"


def _write_picture(record: Record, image: Image, folder: Path) -> None:
    path = folder / _picture_name(record)
    if not path.exists():
        picture = _photo(record)
        fit(picture, image.min_pixels, image.max_pixels).save(path)


def _photo(record: Record) -> PilImage:
    try:
        return open_photo(Path(record.photo.path))
    except PhotoError as error:
        where = f"job {record.job_id}, {record.photo.path}"
        raise DataError(f"{where}: {error}; it was there when link ran: run link again") from None


def summary(result: Split, advisor: str) -> str:
    """What a person wants to know, in one line."""
    counts = result.counts()
    sizes = Counter(group for _, group in (*result.train, *result.val))
    return (
        f"prepare {advisor}: {counts['train']} train of {counts['train_photo_groups']} photos, "
        f"{counts['val']} val of {counts['val_photo_groups']}; largest group {max(sizes.values())}"
    )
