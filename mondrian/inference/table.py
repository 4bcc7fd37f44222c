"""critiques.csv: one row per photo, the highest overall score first, then the skipped files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mondrian.core.files import write_csv
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import SkippedFile

SCORES = ("overall_score", *DIMENSIONS)
_FORMULA_STARTS = tuple("=+-@\t\r")  # a spreadsheet runs a text that begins so
TEXTS = ("image_description", "key_strengths", "priority_improvements", "technical_notes")


def sort_photos(photos: Sequence[CritiquedPhoto]) -> list[CritiquedPhoto]:
    """Return the photos, the highest overall score first."""
    return sorted(photos, key=lambda photo: (-photo.overall_score, photo.file.name))


def write_table(
    path: Path, photos: Sequence[CritiquedPhoto], skipped: Sequence[SkippedFile]
) -> None:
    """Write the table; with a second arm, its scores have columns of their own."""
    others = [record.arm for record in photos[0].records[1:]]
    other_columns = [f"{arm} {name}" for arm in others for name in SCORES]
    columns = ("photo", *SCORES, *other_columns, *TEXTS, "skipped")
    rows = [
        [
            photo.file.name,
            *(score for record in photo.records for score in list_scores(record.critique)),
            *_list_texts(photo.records[0].critique),
            "",
        ]
        for photo in sort_photos(photos)
    ]
    empty = [""] * (len(columns) - 2)
    rows += [[file.name, *empty, file.describe()] for file in sort_skipped(skipped)]
    write_csv(path, columns, map(_escape_formulas, rows))


def _escape_formulas(row: Iterable[object]) -> list[object]:
    """Return the cells; an apostrophe precedes a text that a spreadsheet would run."""
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
        for cell in row
    ]


def list_scores(critique: Critique) -> tuple[float, ...]:
    """Return the scores in the order of SCORES."""
    return critique.overall_score, *critique.scores()


def _list_texts(critique: Critique) -> list[str]:
    values = (getattr(critique, name) for name in TEXTS)
    return [value if isinstance(value, str) else "; ".join(value) for value in values]


def sort_skipped(skipped: Sequence[SkippedFile]) -> list[SkippedFile]:
    return sorted(skipped, key=lambda file: file.name)
