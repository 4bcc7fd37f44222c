"""Stage prepare: write the records of each split as chat rows and resized images."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import file_hash, open_atomic_folder
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.core.params import ImageParams
from mondrian.core.terminal import progress_bar
from mondrian.critique.prompt import build_row_messages, prompt_hash
from mondrian.critique.rows import ChatRow, row_path
from mondrian.critique.schema import serialize_critique
from mondrian.data.manifest import Manifest, Photo
from mondrian.data.report.data_report import DATA_REPORT_FILE
from mondrian.data.split import SPLIT_PARTS, DatasetSplit

_IMAGES = "images"  # folder next to the rows
IMAGE_PATTERN = f"{_IMAGES}/{'[0-9a-f]' * 16}.png"
OUTPUT_PATTERNS = (IMAGE_PATTERN, "training_data_*.json")
_BATCH_SIZE = 8  # images
_MAX_SERIAL = 8  # batches that are written without starting processes


def check_advisor(manifest: Manifest, advisor: str) -> None:
    if manifest.advisor != advisor:
        raise DataError(
            f"{manifest.path} is the manifest of {manifest.advisor!r}, not of {advisor!r}"
        )


def check_any_pair(manifest: Manifest, metrics_dir: Path) -> None:
    """Raise DataError if link found no pair.

    metrics_dir   folder of the data report under DVC; by hand it is next to the manifest
    """
    if not manifest.counts.linked:
        reports = [folder / DATA_REPORT_FILE for folder in (manifest.path.parent, metrics_dir)]
        report = next(filter(Path.exists, reports), f"link's {DATA_REPORT_FILE}")
        raise DataError(f"{manifest.path} has no pair; {report} says why; run link again")


def write_split(
    manifest: Manifest, split: DatasetSplit, persona: str, image_params: ImageParams, folder: Path
) -> None:
    """Write rows and resized images; raises DataError if a photo has changed since link ran."""
    with open_atomic_folder(folder, OUTPUT_PATTERNS) as staging, ExitStack() as stack:
        (staging / _IMAGES).mkdir()
        row_writers = {
            part: stack.enter_context(_write_json_list(row_path(staging, manifest.advisor, part)))
            for part in SPLIT_PARTS
            if split.part_groups(part)
        }
        photos = {}
        records = zip(manifest.records(), split.groups, split.parts, split.folds, strict=True)
        for record, group, part, fold in records:
            critique = record.critique
            if not record.scored:  # no model sees them: not as targets, nor as context
                critique = critique.with_filler_scores()
            row = ChatRow(
                messages=build_row_messages(persona, serialize_critique(critique)),
                images=[image_path(folder, record.photo.sha256).as_posix()],
                id=f"{manifest.advisor}/{record.job_id}",
                photo=record.photo.sha256,
                photo_group=group,
                derived=[r.split(" ", 1)[1] for r in record.repairs if r.startswith("summary ")],
                scored=record.scored,
                captured=record.photo.captured,
                fold=fold,
                prompt_hash=prompt_hash(persona),
            )
            row_writers[part](row)
            photos[record.photo.sha256] = record.photo
        batches = split_into_batches(photos.values(), _BATCH_SIZE)
        output = (image_params, staging)
        with progress_bar(total=len(photos), desc="images", unit="photo") as bar:
            for num_written in map_in_processes(_write_images, output, batches, _MAX_SERIAL):
                bar.update(num_written)


@contextmanager
def _write_json_list(path: Path) -> Iterator[Callable[[ChatRow], None]]:
    """Open a JSON list and yield the function that writes a row on its own line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        separators = chain(["[\n"], repeat(",\n"))

        def write_row(row: ChatRow) -> None:
            file.write(next(separators) + json.dumps(row.model_dump(), ensure_ascii=False))

        yield write_row
        file.write("\n]\n")


def image_path(folder: Path, photo_sha256: str) -> Path:
    """Return the path of a photo's resized image in a folder of rows."""
    return folder / _IMAGES / f"{photo_sha256[:16]}.png"


def _write_images(output: tuple[ImageParams, Path], photos: list[Photo]) -> int:
    image_params, folder = output
    for photo in photos:
        path = Path(photo.path)
        try:
            image = read_photo(path)
        except PhotoError as error:
            raise DataError(f"{path}: {error}; it has changed: run link again") from None
        if file_hash(path) != photo.sha256:
            raise DataError(f"{path} is not the photo that link read: run link again")
        resized = resize_to_fit(image, image_params.min_pixels, image_params.max_pixels)
        resized.save(image_path(folder, photo.sha256))
    return len(photos)


def format_split_summary(split: DatasetSplit, advisor: str) -> str:
    counts = split.counts()
    unit = "groups" if counts["walks"] else "photos"
    parts = ", ".join(
        f"{counts[part]['critiques']} {part} from {counts[part]['photo_groups']} {unit}"
        for part in SPLIT_PARTS
    )
    summary = f"prepare {advisor}: {parts}; largest group {counts['largest_group']}"
    if counts["walks"]:
        summary += (
            f"\n  {counts['walk_photos']} of {counts['photos']} photos are of {counts['walks']} "
            f"walks, the largest of {counts['largest_walk']} photos"
        )
    text_only = [f"{n} {part}" for part in SPLIT_PARTS if (n := counts[part]["text_only"])]
    return summary + (f"; text only, without scores: {', '.join(text_only)}" if text_only else "")
