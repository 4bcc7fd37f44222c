"""A list of critiques as JSON lines that `link` reads; of each photo one line is written.

All other lines stay as they are, also those of other advisors and programs. The file is read again
before each change and replaced as a whole, so that a crash leaves the old one or the new one.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError
from mondrian.core.fields import is_for_advisor
from mondrian.core.files import check_output_file, write_bytes
from mondrian.data.lists.list_entry import EntryDecoder, decode_line
from mondrian.data.lists.list_format import ListLayout, identify_list, is_database
from mondrian.labeling.critique_form import is_form_shaped

_OTHER_LIST = "give another --list, which is written as JSON lines"


@dataclass(frozen=True)
class ListEntry:
    """A line about a photo; `content` is None if its form is not that of the lines written here."""

    number: int  # from 1
    content: Mapping[str, Any] | None

    @property
    def critique(self) -> Mapping[str, Any]:
        return self.content["critique"] if self.content else {}


class CritiqueList:
    """The critiques of one advisor in a list.

    Raises DataError if the file is not a list in JSON lines, or cannot be written.
    """

    def __init__(self, path: Path, advisor: str) -> None:
        self.path, self.advisor = path.resolve(), advisor
        check_output_file(self.path)
        if self.path.exists():
            self._check_format()
            self.read()

    def hidden_file(self, suffix: str) -> Path:
        """Return the path of a file next to the list that no program takes for a list."""
        return self.path.with_name(f".{self.path.name}.{suffix}")

    def read(self) -> dict[str, ListEntry]:
        """Return the entries by the name of their photo."""
        entries = {}
        for number, line in enumerate(self._read_lines(), 1):
            line = line.strip("\ufeff")
            job = decode_line(line, f"line {number}", "jsonl", EntryDecoder())
            if job.filename and (not job.advisor or is_for_advisor(job.advisor, self.advisor)):
                entries[job.filename] = ListEntry(number, _parse_own_form(line))
        return entries

    def write(self, photo: str, content: Mapping[str, Any]) -> None:
        """Replace the entry of a photo, or append one; it is on disk when this returns."""
        lines, entry = self._read_lines(), self.read().get(photo)
        line = json.dumps(content, ensure_ascii=False)
        if entry is None:
            lines.append(line)
        else:
            lines[entry.number - 1] = line
        text = "".join(f"{line}\n" for line in lines)
        write_bytes(self.path, text.encode(errors="backslashreplace"))  # half a pair, as JSON does

    def _read_lines(self) -> list[str]:
        try:
            text = self.path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 ({error.reason}); {_OTHER_LIST}") from None
        lines = text.split("\n")
        return lines[:-1] if not lines[-1] else lines

    def _check_format(self) -> None:
        if not os.access(self.path, os.W_OK):
            raise DataError(f"{self.path} is read-only; chmod u+w, or {_OTHER_LIST}")
        if not self.path.stat().st_size:
            return
        layout = None if is_database(self.path) else identify_list(self.path).layout
        if layout != ListLayout.LINES:
            kind = f"a list of another form ({layout})" if layout else "a database"
            raise DataError(f"{self.path} is {kind}; {_OTHER_LIST}")


def _parse_own_form(line: str) -> Mapping[str, Any] | None:
    """Return an entry that the form shows completely, or None."""
    content, _ = EntryDecoder().decode(line.strip())
    is_own = isinstance(content.get("photo"), str) and isinstance(content.get("critique"), dict)
    return content if is_own and is_form_shaped(content["critique"]) else None
