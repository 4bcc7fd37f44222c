"""critiques.jsonl: one line per photo and model, on disk as soon as the critique is complete.

A killed run continues from it. The same photo, by content, is never asked again with the same base,
adapter, prompt and settings.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from mondrian.core.files import append_line
from mondrian.core.record_log import read_log, rewrite_log
from mondrian.critique.calibration import AppliedCalibration, Calibration
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
    calibration: AppliedCalibration | None = None  # None: the scores are as generated

    @property
    def key(self) -> RecordKey:
        return self.sha256, self.settings

    def recalibrate(self, calibration: Calibration | None) -> Self:
        """Return the record with its scores calibrated anew, or as generated if it is None."""
        critique, applied = self.critique, self.calibration
        if applied:
            critique, applied = applied.restore(critique), None
        if calibration:
            critique, applied = calibration.apply(critique)
        return self.model_copy(update={"critique": critique, "calibration": applied})

    def to_line(self) -> str:
        content: dict[str, Any] = self.model_dump(exclude={"critique"}, exclude_none=True)
        critique = json.loads(serialize_critique(self.critique))
        return json.dumps(content | {"critique": critique}, ensure_ascii=False)


class CritiqueLog:
    """The records of a file; DataError if the file is not one of critiques."""

    def __init__(self, path: Path) -> None:
        self.path = path
        explanation = "holds no critiques of this command; give another --output"
        content = read_log(path, CritiqueRecord, explanation)
        self.records: dict[RecordKey, CritiqueRecord] = {r.key: r for r in content.records}
        self.other_lines = content.other_lines  # kept as they are

    def add(self, record: CritiqueRecord) -> None:
        """Store a record; it is on disk when this returns."""
        append_line(self.path, record.to_line())
        self.records[record.key] = record

    def rewrite(self, current: Iterable[CritiqueRecord]) -> None:
        """Write the current records first and in order, then all other records and lines."""
        ordered = {record.key: record for record in current}
        self.records = ordered | {k: r for k, r in self.records.items() if k not in ordered}
        rewrite_log(self.path, (r.to_line() for r in self.records.values()), self.other_lines)
