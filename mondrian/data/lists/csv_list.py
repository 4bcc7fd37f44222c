"""Lists as tables: CSV as spreadsheets write it, with any usual separator and headings."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from mondrian.core.errors import DataError
from mondrian.critique.rejection import RejectionReason
from mondrian.data.jobs import PHOTO_KEYS, Job
from mondrian.data.lists.headings import (
    MAX_COLUMNS,
    count_known,
    find_heading_problem,
    heading_keys,
    merge_columns,
)
from mondrian.data.lists.list_entry import entry_to_job, reject_entry
from mondrian.data.lists.text_encoding import TextEncoding

_SEPARATORS = ",;\t|"
_QUOTES = "In a text in quotes, a quote is written twice."
_MAX_TITLES = 10  # rows in which the header is searched
_MAX_CELL = 1 << 25  # characters; a longer one has no closing quote


def has_table_header(text: str) -> bool:
    """Return whether a text begins with a row of headings that are known."""
    return find_heading_problem(_read_header(text, _find_separator(text))) is None


def read_table(path: Path, encoding: TextEncoding) -> Iterator[tuple[str, Job]]:
    """Yield place and job of each row after the header.

    The critique is in one column, or each of its parts is.

    Raises DataError if a column is missing or there twice, or if a quote is not closed.
    """
    with path.open(encoding=encoding.codec, errors="replace", newline="") as file:
        separator = _find_separator(file.read(_MAX_CELL >> 9))
        file.seek(0)
        rows = _read_rows(file, separator, path)
        headings = _take_header(rows)
        if problem := find_heading_problem(headings):
            raise DataError(f"{path} {problem}")
        keys = heading_keys(headings)
        for line, row in rows:
            place, name = f"line {line}", f"line-{line:06}"
            if any(cell.strip() for cell in row[len(keys) :]):
                detail = f"{len(row)} cells for {len(keys)} columns; quote texts with {separator!r}"
                yield place, reject_entry(name, RejectionReason.OTHER_SCHEMA, detail)
                continue
            cells = zip(keys, row, strict=False)
            entry = {key: cell for key, cell in cells if key and cell.strip()}
            yield place, entry_to_job(merge_columns(entry), name, "csv")


def _find_separator(text: str) -> str:
    """Return the separator that Excel names in its first line, or gives the most known headings."""
    first = text.lstrip("\ufeff").split("\n", 1)[0].strip().strip('"')
    if separator := _named_separator(first):
        return separator

    def count_headings(separator: str) -> tuple[int, int]:
        header = _read_header(text, separator)
        return count_known(heading_keys(header[:MAX_COLUMNS])), len(header)

    return max(_SEPARATORS, key=count_headings)


def _named_separator(line: str) -> str:
    name, _, separator = line.partition("=")
    return separator if name.lower() == "sep" and len(separator) == 1 else ""


def _read_header(text: str, separator: str) -> list[str]:
    try:
        rows = _read_rows(io.StringIO(text, newline=""), separator, Path("header"))
        return _take_header(rows)
    except DataError:
        return []


def _take_header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """Return the first row with a photo among its headings; a table may have titles before it."""
    first: list[str] = []
    for _, row in islice(rows, _MAX_TITLES):
        first = first or row
        keys = heading_keys(row[:MAX_COLUMNS])
        if count_known(keys) > 1 and not {*PHOTO_KEYS}.isdisjoint(keys):
            return row
    return first


def _read_rows(file: TextIO, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, and the number of its first line in the file."""
    csv.field_size_limit(_MAX_CELL)
    lines = _read_lines(file)
    reader = csv.reader(lines, strict=True, delimiter=separator, skipinitialspace=True)
    line = 1
    try:
        for row in reader:
            is_separator_line = line == 1 and _named_separator(separator.join(row).lstrip("\ufeff"))
            if any(cell.strip() for cell in row) and not is_separator_line:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, row in line {line}: {error}; is it a CSV? {_QUOTES}") from None


def _read_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a table without its byte order mark; raises csv.Error for a long one."""
    mark = "\ufeff"
    while line := file.readline(_MAX_CELL):
        if len(line) == _MAX_CELL:
            raise csv.Error(f"a line of more than {_MAX_CELL:,} characters")
        if line := line.removeprefix(mark):
            yield line
        mark = ""
