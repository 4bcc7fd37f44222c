"""Prepared rows: what prepare writes, train and evaluate read, and other trainers take as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from mondrian.core.errors import DataError, one_line
from mondrian.core.files import file_hash, read_json
from mondrian.core.params import IMAGE
from mondrian.critique.schema import Critique, validate_critique


class ChatRow(BaseModel):
    """One critique as a chat: messages and images for any trainer, provenance for us."""

    model_config = ConfigDict(frozen=True)
    messages: list[dict[str, str]]  # system, user with <image>, assistant
    images: list[str]  # one path, from the folder the pipeline runs in
    id: str  # advisor and job
    photo: str  # sha256 of the original file
    photo_group: str  # photographs that look alike, or share a text, share it
    derived: list[str] = []  # keys of the critique that are not in the advisor's own words
    fold: int | None = None  # for cross-validation, where params.yaml asks for it
    prompt_hash: str

    @model_validator(mode="after")
    def _check_messages(self) -> ChatRow:
        if [m.get("role") for m in self.messages] != ["system", "user", "assistant"]:
            raise ValueError("messages are not of system, user and assistant")
        "".join(m["content"] for m in self.messages).encode()  # no half characters
        answer = json.loads(self.messages[-1]["content"]) if self.derived else {}
        if not all(key in answer for key in self.derived):
            raise ValueError(f"derived names what the answer lacks: {self.derived}")
        if len(self.images) != 1 or [m["content"].count(IMAGE) for m in self.messages] != [0, 1, 0]:
            raise ValueError(f"a row has one image, and {IMAGE} once in the user's message")
        return self

    def reference_critique(self) -> Critique:
        """The critique to learn from or to be held against."""
        return validate_critique(self.messages[-1]["content"])


def row_file(folder: Path, advisor: str, part: str) -> Path:
    """Where the rows of one part, train or val, lie."""
    return folder / f"training_data_{advisor}_{part}.json"


def photo_hashes(rows: Iterable[ChatRow]) -> list[str]:
    """sha256 of each row's prepared photograph."""
    return [file_hash(Path(row.images[0])) for row in rows]


def read_rows(path: Path) -> list[ChatRow]:
    """Read rows and find their photographs.

    Raises DataError where the file is missing, is not rows, holds none, or lacks a photograph.
    """
    content = read_json(path)
    try:
        rows = [ChatRow.model_validate(item) for item in content]
        for row in rows:
            row.reference_critique()
    except (TypeError, ValueError, IndexError, KeyError) as error:
        first = one_line(error, 160)
        raise DataError(f"{path} does not hold prepared rows: {first}") from None
    if not rows:
        raise DataError(f"{path} holds no row; run prepare again: dvc repro")
    return [_locate_photo(row, path) for row in rows]


def read_train_and_val(train: Path, val: Path) -> tuple[list[ChatRow], list[ChatRow]]:
    """Rows to learn from and rows to judge by.

    Raises DataError where they are not of one advisor and prompt, or share a photograph.
    """
    rows, val_rows = read_rows(train), read_rows(val)
    for path, split_rows in ((train, rows), (val, val_rows)):
        for row in split_rows:
            if row.prompt_hash != rows[0].prompt_hash:
                raise DataError(
                    f"{path}: row {row.id} has another prompt than row {rows[0].id} of {train}; "
                    "train on rows of one advisor, prepared together"
                )
    row_id_by_group = {row.photo_group: row.id for row in rows}
    for row in val_rows:
        if row.photo_group in row_id_by_group:
            raise DataError(
                f"{val}: row {row.id} shows a photograph of row "
                f"{row_id_by_group[row.photo_group]} of "
                f"{train}; give rows that were split by prepare"
            )
    return rows, val_rows


def _locate_photo(row: ChatRow, path: Path) -> ChatRow:
    """Beside the rows, wherever their folder was moved to, or as written."""
    image = Path(row.images[0])
    for place in (path.parent / image.parent.name / image.name, image):
        if place.is_file():
            return row.model_copy(update={"images": [str(place)]})
    raise DataError(f"{path}: row {row.id} has no photograph {image}; run prepare again: dvc repro")
