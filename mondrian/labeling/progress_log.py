"""What is not in the list yet: unfinished critiques, and photos that were skipped.

Each change is a line that is on disk as soon as it is reported; the latest line of a photo counts.
The file is next to the list and hidden, so that no other program takes it for a list.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mondrian.core.files import append_line
from mondrian.core.record_log import read_log, rewrite_log


class Progress(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    advisor: str
    photo: str  # sha256
    name: str  # of the photo, for a person who reads the file
    state: Literal["started", "skipped", "finished"]
    fields: dict[str, str] = {}
    draft: str = ""  # the model that wrote the draft in the fields, if any
    writer: str = ""  # the browser tab that wrote last


class ProgressLog:
    """The latest progress on each photo; the file keeps that of all advisors.

    Raises DataError if the file is not one of this program.
    """

    def __init__(self, path: Path, advisor: str) -> None:
        self.path, self.advisor = path, advisor
        explanation = "has no unfinished critiques of mondrian label; move it away"
        content = read_log(path, Progress, explanation)
        self._latest = {(record.advisor, record.photo): record for record in content.records}
        unfinished = [r for r in self._latest.values() if r.state != "finished"]
        if len(content.records) > len(unfinished):
            lines = (record.model_dump_json() for record in unfinished)
            rewrite_log(path, lines, content.other_lines)

    def get(self, photo: str) -> Progress | None:
        """Return the latest progress on a photo, by its sha256."""
        return self._latest.get((self.advisor, photo))

    def add(self, progress: Progress) -> None:
        """Store progress; it is on disk when this returns."""
        append_line(self.path, progress.model_dump_json())
        self._latest[progress.advisor, progress.photo] = progress
