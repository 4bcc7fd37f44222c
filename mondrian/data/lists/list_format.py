"""What a file is, by its content: a database, a list of one of three layouts, or neither."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from mondrian.core.errors import DataError
from mondrian.data.lists.csv_list import has_table_header
from mondrian.data.lists.text_encoding import SAMPLE_BYTES, TextEncoding, detect_encoding

LIST_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
SQLITE_MARK = b"SQLite format 3\x00"
_LINE_SUFFIXES, _TABLE_SUFFIXES = (".jsonl", ".ndjson"), (".csv", ".tsv")
_AS_CSV = "save it as CSV UTF-8"
_AS_LINES = "write it as JSON lines: an object with photo and critique on each line"
_IN_ARCHIVES = {  # names inside a zip
    b"xl/": ("an Excel workbook", _AS_CSV),
    b"word/": ("a Word document", "copy its critiques into a list"),
    b"ppt/": ("a PowerPoint presentation", "copy its critiques into a list"),
    b"opendocument.spreadsheet": ("an OpenDocument spreadsheet", _AS_CSV),
    b"opendocument.": ("an OpenDocument file", "copy its critiques into a list"),
    b".iwa": ("a Numbers, Pages or Keynote document", "export it as CSV"),
}
_BINARY = {  # first bytes
    b"PAR1": ("a Parquet file", _AS_LINES),
    b"ARROW1": ("an Arrow file", _AS_LINES),
    b"%PDF": ("a PDF", "copy its critiques into a list"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", _AS_CSV),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
    b"BZh": ("a bzip2 archive", "unpack it"),
    b"\xfd7zXZ": ("an xz archive", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "unpack it"),
    b"7z\xbc\xaf": ("a 7-Zip archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"\x37\x7f\x06\x82": ("the log of an SQLite database", "give the database next to it"),
    b"\x37\x7f\x06\x83": ("the log of an SQLite database", "give the database next to it"),
    b"\xd9\xd5\x05\xf9": ("the journal of an SQLite database", "give the database next to it"),
    b"\xff\xd8\xff": ("a photo", "give its folder with --source_dir"),
    b"\x89PNG": ("a photo", "give its folder with --source_dir"),
    b"bplist": ("a property list", _AS_LINES),
    b"\x80\x04\x95": ("a Python pickle", _AS_LINES),
}
_TEXTS = {  # first characters, in lower case
    r"<(?:!doctype html|html|head|body|table|div|p|h\d)\b": (
        "an HTML page",
        "copy its critiques into a list",
    ),
    r"<\?xml|<!doctype": ("XML", _AS_CSV),
    r"\{\\rtf": ("a Rich Text document", "copy its critiques into a list"),
    r"version https://git-lfs": ("a pointer of Git LFS", "run git lfs pull"),
    r"pragma foreign_keys|begin transaction|create table": (
        "a dump of a database",
        "load it: sqlite3 FILE.db < DUMP",
    ),
}


class ListLayout(StrEnum):
    LINES = "JSON lines"
    JSON_LIST = "JSON list"
    TABLE = "table"


@dataclass(frozen=True)
class ListFormat:
    layout: ListLayout
    encoding: TextEncoding


def is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_MARK)) == SQLITE_MARK


def identify_list(path: Path) -> ListFormat:
    """Return layout and encoding of a list; raises DataError that names what a file is instead."""
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
        file.seek(max(0, path.stat().st_size - SAMPLE_BYTES))
        end = file.read(SAMPLE_BYTES)
    if not start:
        raise DataError(f"{path} is empty (0 bytes); export the list again")
    if binary := _describe_binary(start, end):
        _refuse(path, *binary)
    encoding = detect_encoding(path)
    if encoding is None:
        _refuse(path, "a binary file", _AS_CSV)
    with path.open(encoding=encoding.codec, errors="replace") as file:
        text = file.read(SAMPLE_BYTES).lstrip("\ufeff \t\r\n")
    if not text:
        raise DataError(f"{path} has blank lines only; export the list again")
    for pattern, description in _TEXTS.items():
        if re.match(pattern, text[:200].lower()):
            _refuse(path, *description)
    return ListFormat(_find_layout(path, text), encoding)


def _find_layout(path: Path, text: str) -> ListLayout:
    suffix, first_line = path.suffix.lower(), text.split("\n", 1)[0].strip()
    if re.match(r"\[\s*[{\]]", text) or (suffix == ".json" and text.startswith("[")):
        return ListLayout.JSON_LIST
    if first_line == "{" or (suffix == ".json" and text.startswith("{") and _is_open(first_line)):
        _refuse(path, "one JSON object", "write its entries as a list: [{…}, {…}]")
    if suffix in _LINE_SUFFIXES or re.match(r'\{\s*["}]', text):
        return ListLayout.LINES
    if suffix in _TABLE_SUFFIXES or has_table_header(text):
        return ListLayout.TABLE
    if suffix == ".json":
        raise DataError(f"{path} is not JSON: it begins with {text[:20]!r}")
    _refuse(path, "a text without headings that are known", "write a header: photo,critique")


def _is_open(line: str) -> bool:
    """Return whether an object continues after a line."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return len(line) < SAMPLE_BYTES // 2
    return False


def _describe_binary(start: bytes, end: bytes) -> tuple[str, str] | None:
    if start.startswith(b"PK\x03\x04"):
        names = start + end
        matches = (content for mark, content in _IN_ARCHIVES.items() if mark in names)
        return next(matches, ("a zip archive", "unpack it"))
    if start[4:8] == b"ftyp" or start[:4] in (b"II*\0", b"MM\0*") or start[8:12] == b"WEBP":
        return "a photo", "give its folder with --source_dir"
    return next(
        (description for mark, description in _BINARY.items() if start.startswith(mark)), None
    )


def _refuse(path: Path, description: str, fix: str) -> NoReturn:
    raise DataError(
        f"{path} is not an SQLite database, nor a list (CSV, JSON lines, a JSON list): it is "
        f"{description}; {fix}"
    )
