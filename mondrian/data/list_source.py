"""Critiques in a list: JSONL or CSV beside a folder of photographs, or the PCCD's JSON -> jobs.

What a list holds as the critique goes through `recover` like any other text, so a line that cannot
be read is counted under its reason. PCCD is the Photo Critique Captioning Dataset (Chang et al.,
"Aesthetic Critiques Generation for Photos", ICCV 2017): seven aspects with a score and a comment.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError
from mondrian.core.fields import first_timestamp, is_for_advisor
from mondrian.core.files import read_json
from mondrian.critique.json_extract import is_critique
from mondrian.critique.normalize import SENTENCE_END
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.jobs import Job, serialize_answer

PHOTO_KEYS = ("photo", "image", "filename", "file", "title")
TEXT_KEYS = ("critique", "text", "response", "analysis")
PCCD_SCORE_ORDER = (  # the order of its `score`
    "general_impression",
    "subject_of_photo",
    "composition",
    "use_of_camera",
    "depth_of_field",
    "color_lighting",
    "focus",
)
PCCD_ASPECTS = {  # the nearest aspect of each dimension
    "Composition": "composition",
    "Lighting": "use_of_camera",  # use of camera, exposure and speed
    "Focus & Sharpness": "focus",
    "Color Harmony": "color_lighting",
    "Depth & Perspective": "depth_of_field",
    "Visual Balance": "subject_of_photo",
    "Emotional Impact": "general_impression",
}
_METADATA_KEYS = {*PHOTO_KEYS, "id", "advisor", "prompt", "mode", "model", "adapter", "created_at"}
_DIMENSION_KEYS = ("score", "comment", "recommendation")
_LIST_KEYS = ("key_strengths", "priority_improvements")


class ListJobSource:
    """The jobs of a list, read anew each time."""

    def __init__(self, path: Path, read: Callable[[Path], Iterator[Job]]) -> None:
        self._path, self._read = path, read

    def count_by_advisor(self) -> dict[str, int]:
        """Entries for each advisor named; those that name none concern all."""
        return dict(Counter(job.advisor or "all" for job in self._read(self._path)))

    def iter_finished(self, advisor: str) -> Iterator[Job]:
        """Entries that name the advisor, or none."""
        for job in self._read(self._path):
            if not job.advisor or is_for_advisor(job.advisor, advisor):
                yield job


@contextmanager
def open_list(path: Path) -> Iterator[ListJobSource]:
    """Read a list by the ending of its name: .jsonl, .csv, or .json for the PCCD.

    Raises DataError where it is missing, or not of its kind.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; set application.db_path in params.yaml")
    yield ListJobSource(
        path, {".jsonl": read_jsonl, ".csv": read_csv, ".json": read_pccd}[path.suffix]
    )


def read_jsonl(path: Path) -> Iterator[Job]:
    """One object a line: a photograph, and a critique as an object, as text, or around it."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        number = 0
        while line := file.readline(MAX_CHARACTERS + 1):
            number += 1
            too_long = 0
            while (
                not line.endswith("\n")
                and len(line) > MAX_CHARACTERS
                and (more := file.readline(MAX_CHARACTERS))
            ):  # the rest of a line beyond reading
                too_long += len(more)
                if more.endswith("\n"):
                    break
            if line.strip():
                yield _parse_line(line, number, len(line) + too_long)


def _parse_line(line: str, number: int, length: int) -> Job:
    name = f"line-{number:06}"
    if length > MAX_CHARACTERS:
        message = f"line {number} has {length:,} characters; most {MAX_CHARACTERS:,}"
        return Job(id=name, filename="", too_long_message=message, text_from="jsonl")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        return Job(id=name, filename="", text=line, text_from="jsonl")
    return _entry_to_job(entry, name, "jsonl")


def read_csv(path: Path) -> Iterator[Job]:
    """A header, then a line a critique: its text in one column, or one column for each part.

    Raises DataError where no column names a photograph, or where it is no CSV.
    """
    csv.field_size_limit(2**31 - 1)  # what is too long is counted, and does not end the list
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        try:
            columns = [str(name).strip().lower() for name in reader.fieldnames or ()]
            if not set(PHOTO_KEYS) & set(columns):
                has = ", ".join(columns)[:200] or "nothing"
                raise DataError(
                    f"{path} has no column {' or '.join(PHOTO_KEYS[:4])}; it has {has} "
                    "(columns are divided by commas)"
                )
            parts = [
                f"{start}_{key}"
                for start in map(_column_prefix, DIMENSIONS)
                for key in _DIMENSION_KEYS
            ]
            lacking = [name for name in parts if name not in columns]
            if 0 < len(lacking) < len(parts):
                raise DataError(f"{path} has no column {', '.join(lacking[:5])}; add it")
            twice = [name for name, times in Counter(columns).items() if times > 1 and name]
            if twice:
                raise DataError(f"{path} has the column {twice[0]} twice; rename one")
            reader.fieldnames = columns
            for number, row in enumerate(reader, 1):
                entry = {name: value for name, value in row.items() if name and value}
                yield _entry_to_job(_merge_dimension_columns(entry), f"row-{number:06}", "csv")
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}; is it a CSV?") from None


def _merge_dimension_columns(entry: dict[str, Any]) -> dict[str, Any]:
    """Columns such as composition_score and composition_comment as one critique."""
    dimensions = []
    for name in DIMENSIONS:
        parts = {key: entry.pop(f"{_column_prefix(name)}_{key}", None) for key in _DIMENSION_KEYS}
        dimensions += [{"name": name, **parts}] if any(parts.values()) else []
    for key in _LIST_KEYS:
        if key in entry:
            entry[key] = [item.strip() for item in re.split(r"[;\n]", entry[key]) if item.strip()]
    return entry | ({"dimensions": dimensions} if dimensions else {})


def _column_prefix(dimension: str) -> str:
    return re.sub(r"[^a-z]+", "_", dimension.lower())


def _entry_to_job(entry: dict[str, Any], name: str, kind: str) -> Job:
    text = next((entry[key] for key in TEXT_KEYS if entry.get(key)), None)
    if text is None and is_critique(entry):
        text = {key: value for key, value in entry.items() if key not in _METADATA_KEYS}
    advisor = entry.get("advisor") or ""
    return Job(
        id=str(entry.get("id") or name),
        filename=str(next((entry[key] for key in PHOTO_KEYS if entry.get(key)), "")),
        advisor=", ".join(map(str, advisor)) if isinstance(advisor, list) else str(advisor),
        prompt=str(entry.get("prompt") or ""),
        mode=str(entry.get("mode") or ""),
        model=str(entry.get("model") or ""),
        text=serialize_answer(text),
        text_from=kind,
        adapter=str(entry.get("adapter") or ""),
        timestamp=first_timestamp([entry.get("created_at")]),
    )


def read_pccd(path: Path) -> Iterator[Job]:
    """The entries of guru.json: `title` names the photograph, `score` has the seven in order.

    A comment of two sentences or more ends in its recommendation, for it has no other; one of a
    single sentence has none, and its entry is counted as dimensions_incomplete.

    Raises DataError where the file is not of that layout.
    """
    entries = read_json(path)
    aspects = set(PCCD_SCORE_ORDER)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and aspects <= set(entry) for entry in entries
    ):
        raise DataError(
            f"{path} is not a PCCD list: each entry needs {', '.join(PCCD_SCORE_ORDER)}"
        )
    for number, entry in enumerate(entries, 1):
        photo = str(entry.get("title") or entry.get("im_name") or "")
        value = json.dumps(_pccd_critique(entry))
        yield Job(id=f"entry-{number:06}", filename=photo, text=value, text_from="pccd")


def _pccd_critique(entry: dict[str, Any]) -> dict[str, Any]:
    stored = entry.get("score")
    scores = dict(zip(PCCD_SCORE_ORDER, stored if isinstance(stored, list) else [], strict=False))
    dimensions = []
    for name, aspect in PCCD_ASPECTS.items():
        *first, last = SENTENCE_END.split(str(entry[aspect] or "").strip())
        parts = {"comment": " ".join(first) or last, "recommendation": last if first else ""}
        dimensions.append({"name": name, "score": scores.get(aspect), **parts})
    overall = entry.get("overall", scores.get("general_impression"))
    description = entry.get("description") or entry["general_impression"]
    return {
        "image_description": str(description or "").strip(),
        "dimensions": dimensions,
        "overall_score": overall,
    }
