"""Feedback on critiques, given by HTTP or written directly into a store."""

import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.storage.engine import open_engine
from mondrian.storage.feedback import add_feedback
from mondrian.storage.jobs import JobRow, JobStore, LeasePolicy
from mondrian.storage.tables import jobs


def post_feedback(client: httpx2.Client, job: str, **body: Any) -> dict[str, Any]:
    """Give feedback on a job: post_feedback(client, id, verdict="accepted"); return the newest."""
    response = client.post(f"/jobs/{job}/feedback", json=body)
    assert response.status_code == 200, response.text
    newest: dict[str, Any] = response.json()["feedback"][-1]
    return newest


def with_scores(critique: Critique, **scores: float) -> Critique:
    """Change scores: corrected(critique, Lighting=2.5); the overall score stays."""
    dimensions = tuple(
        d.model_copy(update={"score": scores.get(d.name, d.score)}) for d in critique.dimensions
    )
    return critique.model_copy(update={"dimensions": dimensions})


def open_store(path: Path) -> JobStore:
    return JobStore(open_engine(str(path)), LeasePolicy(lease_seconds=30, max_attempts=3))


def add_completed_job(
    store: JobStore, critique: Critique, filename: str = "0.jpg", **values: Any
) -> JobRow:
    """Add a completed job."""
    text = serialize_critique(critique)
    row, _ = store.add(
        {
            "id": str(uuid4()),
            "filename": filename,
            "advisor": "ansel",
            "mode": "base",
            "kind": "upload",
            "status": "completed",
            "llm_outputs": json.dumps({"response": text}),
            "model_used": "base",
            "photo_sha256": filename,
            "completed_at": str(time.time()),
            **values,
        }
    )
    return row


def change_row(store: JobStore, id: str, **values: Any) -> None:
    """Change a row as another program would."""
    with store.engine.begin() as connection:
        connection.execute(jobs.update().where(jobs.c.id == id), values)


def write_feedback(
    store: JobStore, row: JobRow, critique: Critique | None, /, **values: Any
) -> None:
    """Write feedback directly into the table; `critique` is the served one."""
    original = serialize_critique(critique) if critique else None
    assert add_feedback(store.engine, row, values, {"ansel": original})
