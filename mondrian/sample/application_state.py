"""The sample application while it is written: rows of its database, names, and the truth."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from mondrian.critique.schema import Critique
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique

JOB_COLUMNS = (
    "id",
    "filename",
    "advisor",
    "status",
    "mode",
    "created_at",
    "started_at",
    "completed_at",
    "analysis_markdown",
    "analysis_html",
    "llm_outputs",
    "llm_thinking",
    "prompt",
    "llm_prompt",
    "model",
    "adapter",
    "error",
    "retry_count",
)


@dataclass
class ApplicationState:
    """Everything that is written, and the truth about it."""

    seed: int
    folder: Path
    rng: Random
    rows: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, dict[str, str]] = field(default_factory=dict)
    photo_names: dict[int, str] = field(default_factory=dict)

    def new_id(self) -> str:
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def make_critique(self, advisor: str, photo: int) -> Critique:
        return write_critique(advisor, draw_scene(self.seed, photo))

    def add_job(self, advisor: str, filename: str, expect: str, **columns: Any) -> str:
        """Add a finished job; expect is `linked` or a reason."""
        job = columns.pop("id", None) or self.new_id()
        minute = len(self.rows)
        row = {
            "id": job,
            "filename": filename,
            "advisor": advisor,
            "status": ("completed", "done")[minute % 2],
            "mode": "baseline",
            "created_at": _stamp(minute),
            "model": "qwen3-vl:8b",
            "retry_count": 0,
        }
        self.rows.append(row | columns)
        self.truth.setdefault(advisor, {})[job] = expect
        return job


def _stamp(minute: int) -> str | float | None:
    """Times as the application has kept them: ISO text, SQL text, epoch floats, NULL."""
    day, rest = 1 + minute // 60, minute % 60
    return (
        f"2026-01-{day:02d}T10:{rest:02d}:00",
        f"2026-01-{day:02d} 10:{rest:02d}:00",
        1_767_225_600.5 + 60 * minute,
        None,
    )[minute % 4]


def write_database(world: ApplicationState) -> None:
    connection = sqlite3.connect(world.folder / "mondrian.db")
    names = ", ".join(f'"{c}"' for c in JOB_COLUMNS)
    connection.execute(f"CREATE TABLE jobs ({names}, PRIMARY KEY (id))")
    marks = ", ".join("?" for _ in JOB_COLUMNS)
    connection.executemany(f"INSERT INTO jobs VALUES ({marks})", _values(world))
    connection.commit()
    connection.close()


def _values(world: ApplicationState) -> Iterator[list[Any]]:
    for row in world.rows:
        yield [row.get(column) for column in JOB_COLUMNS]
