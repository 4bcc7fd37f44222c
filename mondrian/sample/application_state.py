"""The sample application while it is written: its database rows, photo names and outcomes."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique

_JOB_COLUMNS = (
    "id filename advisor status mode created_at started_at completed_at analysis_markdown "
    "analysis_html llm_outputs llm_thinking prompt llm_prompt model adapter error retry_count"
).split()


@dataclass
class ApplicationState:
    """The application while it is written: database rows, photo names and expected outcomes."""

    seed: int
    folder: Path
    rng: Random
    rows: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, dict[str, str]] = field(default_factory=dict)
    photo_names: dict[int, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def new_id(self) -> str:
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def make_critique(self, advisor: str, photo: int) -> Critique:
        return write_critique(advisor, draw_scene(self.seed, photo))

    def make_text(self, advisor: str, photo: int) -> str:
        return serialize_critique(self.make_critique(advisor, photo))

    def add_job(self, advisor: str, filename: str, outcome: str, **columns: Any) -> str:
        """Add a finished job and return its id; outcome is `linked` or a rejection reason."""
        job_id = columns.pop("id", None) or self.new_id()
        minute = len(self.rows)
        row = {
            "id": job_id,
            "filename": filename,
            "advisor": advisor,
            "status": ("completed", "done")[minute % 2],
            "mode": "baseline",
            "created_at": _format_created_at(minute),
            "model": "qwen3-vl:8b",
            "retry_count": 0,
        }
        self.rows.append(row | columns)
        self.truth.setdefault(advisor, {})[job_id] = outcome
        return job_id

    def write_database(self) -> None:
        connection = sqlite3.connect(self.folder / "mondrian.db")
        names = ", ".join(f'"{column}"' for column in _JOB_COLUMNS)
        connection.execute(f"CREATE TABLE jobs ({names}, PRIMARY KEY (id))")
        placeholders = ", ".join("?" for _ in _JOB_COLUMNS)
        values = ([row.get(column) for column in _JOB_COLUMNS] for row in self.rows)
        connection.executemany(f"INSERT INTO jobs VALUES ({placeholders})", values)
        connection.commit()
        connection.close()


def _format_created_at(minute: int) -> str | float | None:
    """Return a time in a format of the application: ISO text, SQL text, epoch float or NULL."""
    day, rest = 1 + minute // 60, minute % 60
    return (
        f"2026-01-{day:02d}T10:{rest:02d}:00",
        f"2026-01-{day:02d} 10:{rest:02d}:00",
        1_767_225_600.5 + 60 * minute,
        None,
    )[minute % 4]
