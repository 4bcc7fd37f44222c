"""Sources of jobs: a database (sqlite_source), or a list in JSONL, CSV or PCCD's JSON.

PCCD is the Photo Critique Captioning Dataset (Chang et al., "Aesthetic Critiques Generation for
Photos", ICCV 2017): seven aspects with a score and a comment.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError
from mondrian.core.fields import first_timestamp, is_for_advisor
from mondrian.core.files import read_json
from mondrian.critique.json_extract import is_critique
from mondrian.critique.normalize import SENTENCE_END
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.job_counts import FINISHED_STATUSES, JobCounts
from mondrian.data.jobs import PHOTO_KEYS, TEXT_KEYS, Job, answer_to_text
from mondrian.data.sqlite_source import SqliteJobSource, missing_source_message, open_database

CSV_TEMPLATE = Path(__file__).with_name("critiques_template.csv")  # a list with one example
LIST_PHOTO_FOLDERS = {"critiques.jsonl": ".", "critiques.csv": ".", "guru.json": "images/full"}
PCCD_SCORE_ORDER = (  # the order of its `score`
    "general_impression subject_of_photo composition use_of_camera depth_of_field color_lighting "
    "focus"
).split()
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
_COLUMN_PREFIXES = {name: re.sub(r"[^a-z]+", "_", name.lower()) for name in DIMENSIONS}
_LIST_KEYS = ("key_strengths", "priority_improvements")


def locate_source(path: Path) -> Path:
    """Return the path itself, or the list in the folder; raises DataError if there is none."""
    if not path.exists():
        raise DataError(missing_source_message(path))
    if not path.is_dir():
        return path
    for name in LIST_PHOTO_FOLDERS:
        if (path / name).is_file():
            return path / name
    databases = ", ".join(map(str, sorted(path.glob("*.db"))))
    hint = f"give the database itself: {databases}" if databases else "and without a database"
    raise DataError(f"{path} is a folder without {', '.join(LIST_PHOTO_FOLDERS)}; {hint}")


def default_photo_folder(path: Path) -> Path:
    if not _is_list(path):
        return path.parent / "source"
    return path.parent / LIST_PHOTO_FOLDERS.get(path.name.lower(), ".")


class ListJobSource:
    """The jobs of a list, read again for each call; an unreadable line is a job too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count_jobs(self) -> JobCounts:
        """Count the entries, all of which are finished; entries without an advisor are for all."""
        return JobCounts((job.advisor or "all", FINISHED_STATUSES[0], 1) for job in self._read())

    def iter_filenames(self) -> Iterator[str]:
        """Yield the photos of all entries, whoever the advisor."""
        yield from {job.filename for job in self._read()}

    def iter_finished(self, advisor: str) -> Iterator[Job]:
        for job in self._read():
            if not job.advisor or is_for_advisor(job.advisor, advisor):
                yield job

    def _read(self) -> Iterator[Job]:
        return _LIST_READERS[self._path.suffix.lower()](self._path)


def open_source(path: Path) -> AbstractContextManager[SqliteJobSource | ListJobSource]:
    """Open a database, or a list by its suffix; raises DataError if it is missing or invalid."""
    if not _is_list(path):
        return open_database(path)
    if not path.is_file():
        raise DataError(missing_source_message(path))
    _check_encoding(path)
    return nullcontext(ListJobSource(path))


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in _LIST_READERS


def _check_encoding(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    has_mark = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if has_mark or (path.suffix.lower() == ".csv" and b"\0" in start):
        raise DataError(f"{path} is UTF-16; save it as UTF-8 (in Excel as CSV UTF-8)")


def _read_jsonl(path: Path) -> Iterator[Job]:
    """Yield a job per line: an object with a photo, and a critique as object, text or keys."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = iter(lambda: file.readline(MAX_CHARACTERS + 1), "")
        for number, line in enumerate(lines, 1):
            length, part = len(line), line
            while length > MAX_CHARACTERS and part and not part.endswith("\n"):  # skip its rest
                part = file.readline(MAX_CHARACTERS)
                length += len(part)
            if line.strip():
                yield _parse_line(line, number, length)


def _parse_line(line: str, number: int, length: int) -> Job:
    name = f"line-{number:06}"
    if length > MAX_CHARACTERS:
        message = f"line {number} has {length:,} characters; at most {MAX_CHARACTERS:,}"
        return Job(id=name, filename="", too_long_message=message, text_from="jsonl")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        return Job(id=name, filename="", text=line, text_from="jsonl")
    return _entry_to_job(entry, name, "jsonl")


def _read_csv(path: Path) -> Iterator[Job]:
    """Yield a job per row after the header: the critique in one column, or a column per part."""
    rows = _read_csv_rows(path)
    _, header = next(rows, (0, []))
    columns = [name.strip().lower() for name in header]
    _check_columns(columns, path)
    for line, row in rows:
        cells = zip(columns, row, strict=False)
        entry: dict[str, Any] = {name: value for name, value in cells if name and value}
        yield _entry_to_job(_merge_dimension_columns(entry), f"line-{line:06}", "csv")


def _read_csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, and the number of its first line in the file."""
    csv.field_size_limit(2**31 - 1)  # a text that is too long is counted and does not end the list
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            for row in reader:
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, row in line {line}: {error}; is it a CSV?") from None


def _check_columns(columns: list[str], path: Path) -> None:
    parts = [f"{prefix}_{key}" for prefix in _COLUMN_PREFIXES.values() for key in _DIMENSION_KEYS]
    for accepted, names in (
        ((*PHOTO_KEYS,), " or ".join(PHOTO_KEYS[:4])),
        ((*TEXT_KEYS, *parts), f"{' or '.join(TEXT_KEYS)}, nor {parts[0]} and so on"),
    ):
        if set(accepted).isdisjoint(columns):
            existing = ", ".join(map(repr, columns))[:200] or "no columns"
            raise DataError(
                f"{path} has no column {names}; it has {existing} "
                "(columns are separated by commas; mondrian init --csv_template writes an example)"
            )
    missing = [name for name in parts if name not in columns]
    if 0 < len(missing) < len(parts):
        raise DataError(f"{path} has no column {', '.join(missing[:5])}; add it")
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise DataError(f"{path} has the column {name!r:.80} twice; rename one")


def _merge_dimension_columns(entry: dict[str, Any]) -> dict[str, Any]:
    """Merge columns such as composition_score and composition_comment into one critique."""
    dimensions = []
    for name, prefix in _COLUMN_PREFIXES.items():
        parts = {key: entry.pop(f"{prefix}_{key}", None) for key in _DIMENSION_KEYS}
        dimensions += [{"name": name, **parts}] if any(parts.values()) else []
    for key in _LIST_KEYS:
        if key in entry:
            entry[key] = [item.strip() for item in re.split(r"[;\n]", entry[key]) if item.strip()]
    return entry | ({"dimensions": dimensions} if dimensions else {})


def _entry_to_job(entry: dict[str, Any], name: str, kind: str) -> Job:
    text = next((entry[key] for key in TEXT_KEYS if entry.get(key)), None)
    if text is None and is_critique(entry):
        text = {key: value for key, value in entry.items() if key not in _METADATA_KEYS}
    advisor = entry.get("advisor") or ""
    return Job(
        id=str(entry.get("id") or name),
        filename=str(next((entry[key] for key in PHOTO_KEYS if entry.get(key)), "")),
        advisor=", ".join(map(str, advisor)) if isinstance(advisor, list) else str(advisor),
        text=answer_to_text(text),
        text_from=kind,
        keys=", ".join(map(str, entry))[:200],
        timestamp=first_timestamp([entry.get("created_at")]),
        prompt=str(entry.get("prompt") or ""),
        mode=str(entry.get("mode") or ""),
        model=str(entry.get("model") or ""),
        adapter=str(entry.get("adapter") or ""),
    )


def _read_pccd(path: Path) -> Iterator[Job]:
    """Yield a job per entry of guru.json: `title` names the photo, `score` has the seven in order.

    The last sentence of a comment becomes the recommendation, which PCCD does not have; an entry
    with a comment of one sentence is counted as dimensions_incomplete.
    """
    entries = read_json(path)
    aspects = set(PCCD_SCORE_ORDER)
    entries = entries if isinstance(entries, list) else [None]
    if not all(isinstance(entry, dict) and aspects <= set(entry) for entry in entries):
        keys = ", ".join(PCCD_SCORE_ORDER)
        raise DataError(f"{path} is not a PCCD list: each entry needs {keys}")
    for number, entry in enumerate(entries, 1):
        photo = str(entry.get("title") or entry.get("im_name") or "")
        text = json.dumps(_pccd_critique(entry))
        yield Job(id=f"entry-{number:06}", filename=photo, text=text, text_from="pccd")


def _pccd_critique(entry: dict[str, Any]) -> dict[str, Any]:
    stored = entry.get("score")
    scores = dict(zip(PCCD_SCORE_ORDER, stored if isinstance(stored, list) else [], strict=False))
    dimensions = []
    for name, aspect in PCCD_ASPECTS.items():
        *first, last = SENTENCE_END.split(str(entry[aspect] or "").strip())
        parts = {"comment": " ".join(first) or last, "recommendation": last if first else ""}
        dimensions.append({"name": name, "score": scores.get(aspect), **parts})
    description = entry.get("description") or entry["general_impression"] or ""
    return {
        "image_description": str(description).strip(),
        "dimensions": dimensions,
        "overall_score": entry.get("overall", scores.get("general_impression")),
    }


_LIST_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".json": _read_pccd}
