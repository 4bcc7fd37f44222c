"""Prepared rows: written by prepare, read by train, evaluate and other trainers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from mondrian.core.errors import DataError, one_line
from mondrian.core.files import file_hash, read_json
from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.schema import Critique, validate_critique

MIN_GROUPS = 8  # photo groups; with fewer nothing is concluded


class ChatRow(BaseModel):
    """One critique as a chat: messages and images for any trainer, provenance for Mondrian."""

    model_config = ConfigDict(frozen=True)
    messages: list[dict[str, str]]  # system, user with <image>, assistant
    images: list[str]  # one path, relative to the folder in which the pipeline runs
    id: str  # advisor and job
    photo: str  # sha256 of the original file
    photo_group: str  # shared by photos that look alike, have a text in common or are of one walk
    derived: list[str] = []  # keys of the critique that are not in the advisor's own words
    scored: bool = True  # False: all its scores are FILLER_SCORE, to be left out of the loss
    captured: str = ""  # when the photo was taken, in ISO 8601; empty if unknown
    fold: int | None = None  # for cross-validation, if prepare.folds is set
    prompt_hash: str

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        if [m.get("role") for m in self.messages] != ["system", "user", "assistant"]:
            raise ValueError("messages are not of system, user and assistant")
        "".join(m["content"] for m in self.messages).encode()  # raises on lone surrogates
        answer = json.loads(self.messages[-1]["content"]) if self.derived else {}
        if not all(key in answer for key in self.derived):
            raise ValueError(f"derived has keys that the answer lacks: {self.derived}")
        if len(self.images) != 1 or [
            m["content"].count(IMAGE_PLACEHOLDER) for m in self.messages
        ] != [0, 1, 0]:
            raise ValueError(
                f"a row needs one image, and {IMAGE_PLACEHOLDER} once in the user's message"
            )
        return self

    def reference_critique(self) -> Critique:
        return validate_critique(self.messages[-1]["content"])


RowT = TypeVar("RowT", bound=ChatRow)


def row_path(folder: Path, advisor: str, part: str) -> Path:
    return folder / f"training_data_{advisor}_{part}.json"


def image_hashes(rows: Iterable[ChatRow]) -> list[str]:
    """Return the sha256 of each row's prepared image."""
    return [file_hash(Path(row.images[0])) for row in rows]


def read_rows(path: Path) -> list[ChatRow]:
    """Read rows; raises DataError if the file or an image is missing, or the rows are invalid."""
    content = read_json(path)
    try:
        rows = [ChatRow.model_validate(item) for item in content]
        for row in rows:
            row.reference_critique()
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path} is not a file of prepared rows: {one_line(error, 160)}") from None
    if not rows:
        raise DataError(f"{path} has no rows; run prepare again: dvc repro")
    return [locate_image(row, path, "run prepare again: dvc repro") for row in rows]


def read_train_and_val(train: Path, val: Path) -> tuple[list[ChatRow], list[ChatRow]]:
    """Read both; raises DataError if their prompts differ or if they have a photo in common."""
    train_rows, val_rows = read_rows(train), read_rows(val)
    first = train_rows[0]
    for path, rows in ((train, train_rows), (val, val_rows)):
        for row in rows:
            if row.prompt_hash != first.prompt_hash:
                raise DataError(
                    f"{path}: row {row.id} has another prompt than row {first.id} of {train}; "
                    "train on rows of one advisor, prepared together"
                )
    train_id_by_group = {row.photo_group: row.id for row in train_rows}
    for row in val_rows:
        if row.photo_group in train_id_by_group:
            train_id = train_id_by_group[row.photo_group]
            raise DataError(
                f"{val}: row {row.id} has the photo of row {train_id} of {train}; "
                "give rows that prepare has split"
            )
    return train_rows, val_rows


def locate_image(row: RowT, path: Path, fix: str) -> RowT:
    """Find the image next to the rows, if their folder was moved, or at the path as written.

    Raises DataError with the fix.
    """
    image = Path(row.images[0])
    for candidate in (path.parent / image.parent.name / image.name, image):
        if candidate.is_file():
            return row.model_copy(update={"images": [str(candidate)]})
    raise DataError(f"{path}: row {row.id} has no image {image}; {fix}")
