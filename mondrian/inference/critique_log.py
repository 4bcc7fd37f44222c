"""critiques.jsonl: one line per photo and model, on disk as soon as the critique is complete.

A killed run continues from it. The same photo, by content, is never asked again with the same base,
adapter, prompt and settings.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mondrian.core.errors import DataError
from mondrian.core.files import append_line, write_text
from mondrian.critique.schema import Critique, serialize_critique

ArmName = Literal["fine_tuned", "base"]
RecordKey = tuple[str, str]  # sha256 of the photo, settings


class CritiqueRecord(BaseModel):
    """A critique, and what it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    photo: str  # path, as it was given
    sha256: str  # of the photo's file
    advisor: str
    arm: ArmName
    base: str  # sha256
    adapter: str  # version; empty for the base alone
    settings: str  # sha256 of all that decides a critique besides the photo
    critique: Critique

    @property
    def key(self) -> RecordKey:
        return self.sha256, self.settings

    def to_line(self) -> str:
        content: dict[str, Any] = self.model_dump(exclude={"critique"})
        critique = json.loads(serialize_critique(self.critique))
        return json.dumps(content | {"critique": critique}, ensure_ascii=False)


class CritiqueLog:
    """The records of a file; DataError if the file is not one of critiques."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[RecordKey, CritiqueRecord] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        for line in lines:
            try:
                record = CritiqueRecord.model_validate_json(line)
            except ValidationError:  # a line that was cut short
                continue
            self.records[record.key] = record
        if len(lines) > 1 and not self.records:
            raise DataError(f"{path} holds no critiques of this command; give another --output")

    def add(self, record: CritiqueRecord) -> None:
        """Store a record; it is on disk when this returns."""
        append_line(self.path, record.to_line())
        self.records[record.key] = record

    def rewrite(self, current: Iterable[CritiqueRecord]) -> None:
        """Write the current records first and in order, then all others."""
        ordered = {record.key: record for record in current}
        self.records = ordered | {k: r for k, r in self.records.items() if k not in ordered}
        write_text(self.path, "".join(f"{r.to_line()}\n" for r in self.records.values()))
