"""Logs of records as JSON lines, of which a killed program cuts at most the last line short."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from mondrian.core.errors import DataError
from mondrian.core.files import write_bytes

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class LogContent(Generic[Record]):
    """The records of a log in order, and its complete lines that are none."""

    records: list[Record]
    other_lines: list[bytes]


def read_log(path: Path, model: type[Record], explanation: str) -> LogContent[Record]:
    """Return the content of a log, none if there is no file.

    A last record that a kill cut short, without its line end, is left out. Raises DataError with
    the explanation if the file has complete lines and none is a record.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    content, num_complete = LogContent[Record]([], []), len(lines) - 1
    for i, line in enumerate(lines):
        try:
            content.records.append(model.model_validate_json(line))
        except ValidationError:
            if line.strip() and (i < num_complete or not line.startswith(b"{")):
                content.other_lines.append(line)
    if num_complete and not content.records:
        raise DataError(f"{path} {explanation}")
    return content


def rewrite_log(path: Path, lines: Iterable[str], other_lines: Sequence[bytes]) -> None:
    """Replace a log by the lines of its records; the lines that are none follow unchanged."""
    content = [*(line.encode() for line in lines), *other_lines]
    write_bytes(path, b"".join(line + b"\n" for line in content))
