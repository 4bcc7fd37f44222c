"""Lists in JSON: an object a line, a list of objects, or PCCD's list.

PCCD is the Photo Critique Captioning Dataset (Chang et al., "Aesthetic Critiques Generation for
Photos", ICCV 2017): seven aspects with a score and a comment.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from mondrian.core.errors import DataError
from mondrian.critique.normalize import SENTENCE_END
from mondrian.critique.parser import MAX_CHARACTERS
from mondrian.critique.rejection import RejectionReason
from mondrian.data.jobs import Job
from mondrian.data.lists.list_entry import (
    EntryDecoder,
    decode_line,
    entry_to_job,
    reject_entry,
    reject_long_entry,
    reject_malformed,
)
from mondrian.data.lists.text_encoding import TextEncoding

PCCD_FILE = "guru.json"
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
_CHUNK = 1 << 20  # characters
_MAX_ENTRY = 1 << 25  # characters of an entry of a list, with its photo as a data URI
_LONGEST_TOKEN = 16  # characters of a literal or an escape, which a chunk may divide


def read_json_lines(path: Path, encoding: TextEncoding) -> Iterator[tuple[str, Job]]:
    """Yield place and job of each line that is not blank, valid or not."""
    decoder = EntryDecoder()
    with path.open(encoding=encoding.codec, errors="replace") as file:
        lines = iter(lambda: file.readline(MAX_CHARACTERS + 1), "")
        for number, line in enumerate(lines, 1):
            place, name = f"line {number}", f"line-{number:06}"
            length, rest = len(line), line
            while length > MAX_CHARACTERS and rest and not rest.endswith("\n"):  # skip its rest
                rest = file.readline(MAX_CHARACTERS)
                length += len(rest)
            if length > MAX_CHARACTERS:
                yield place, reject_long_entry(name, place, line, length)
            elif line.strip("\ufeff \t\r\n"):
                yield place, decode_line(line.strip("\ufeff"), name, "jsonl", decoder)


def read_json_list(path: Path, encoding: TextEncoding) -> Iterator[tuple[str, Job]]:
    """Yield place and job of each entry; raises DataError if the rest of a file is not JSON."""
    is_pccd = path.name.lower() == PCCD_FILE
    for number, (entry, length, problem) in enumerate(_read_entries(path, encoding), 1):
        is_pccd = is_pccd or (number == 1 and _has_aspects(entry))
        if is_pccd and not _has_aspects(entry):
            keys = ", ".join(PCCD_SCORE_ORDER)
            raise DataError(f"{path} is not a PCCD list: entry {number} needs {keys}")
        name, place = f"entry-{number:06}", f"entry {number}"
        if problem:
            yield place, reject_malformed(name, entry, problem)
        elif length > MAX_CHARACTERS:
            yield place, reject_long_entry(name, place, json.dumps(entry), length)
        elif not isinstance(entry, dict):
            detail = f"{place} is {str(entry)[:40]!r}, not an object"
            yield place, reject_entry(name, RejectionReason.OTHER_SCHEMA, detail)
        else:
            yield place, _pccd_job(entry, name) if is_pccd else entry_to_job(entry, name, "json")


def _read_entries(path: Path, encoding: TextEncoding) -> Iterator[tuple[Any, int, str]]:
    """Yield each entry of a JSON list with its length and its problem, with bounded memory."""
    with path.open(encoding=encoding.codec, errors="replace") as file:
        parser = _ListParser(path, file)
        if parser.next_character() != "[":
            parser.fail("a list begins with [")
        parser.position += 1
        is_first = True
        while (character := parser.next_character()) != "]":
            if not is_first:
                if character != ",":
                    parser.fail("expected a comma or ]")
                parser.position += 1
                parser.next_character()
            yield parser.read_value()
            is_first = False
        parser.position += 1
        if parser.next_character():
            parser.fail("text after the list")


class _ListParser:
    """Reads the values of a JSON text one after another, from a file of any length."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file, self._decoder = path, file, EntryDecoder()
        self._buffer, self._number, self._is_complete = "", 0, False
        self.position = 0

    def next_character(self) -> str:
        """Skip blanks and return the next character; empty at the end of the file."""
        while True:
            while self.position < len(self._buffer):
                character = self._buffer[self.position]
                if character not in " \t\r\n\ufeff":
                    return character
                self.position += 1
            if self._is_complete:
                return ""
            self._read_more()

    def read_value(self) -> tuple[Any, int, str]:
        """Return a value, its length, and the key that has two values in it, if any."""
        self._number += 1
        while True:
            try:
                value, end = self._decoder.decode(self._buffer, self.position)
            except json.JSONDecodeError as error:
                is_divided = error.pos >= len(self._buffer) - _LONGEST_TOKEN
                if self._is_complete or not (is_divided or error.msg.startswith("Unterm")):
                    self.fail(error.msg)
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
                self.fail(str(error)[:120])
            else:
                if end < len(self._buffer) or self._is_complete:
                    length, self.position = end - self.position, end
                    return value, length, self._decoder.problem
            self._read_more()

    def fail(self, problem: str) -> NoReturn:
        place = f"entry {self._number}" if self._number else "its start"
        if self._is_complete and self.position >= len(self._buffer):
            problem = "it is cut off"
        raise DataError(f"{self._path} is not JSON: {place}: {problem}") from None

    def _read_more(self) -> None:
        unread = self._buffer[self.position :]
        if len(unread) > _MAX_ENTRY:
            self.fail(f"longer than {_MAX_ENTRY:,} characters")
        chunk = self._file.read(max(_CHUNK, len(unread)))
        self._is_complete = not chunk
        self._buffer, self.position = unread + chunk, 0


def _has_aspects(entry: Any) -> bool:
    return isinstance(entry, dict) and {*PCCD_SCORE_ORDER} <= {*entry}


def _pccd_job(entry: dict[str, Any], name: str) -> Job:
    """Return the job of an entry of PCCD: `title` names the photo, `score` has the seven in order.

    The last sentence of a comment becomes the recommendation, which PCCD does not have; an entry
    with a comment of one sentence is counted as dimensions_incomplete.
    """
    photo = str(entry.get("title") or entry.get("im_name") or "")
    text = json.dumps(_pccd_critique(entry), ensure_ascii=False)
    return Job(id=name, filename=photo, text=text, text_from="pccd")


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
