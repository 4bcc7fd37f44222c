"""Critiques reviewed by HTTP, as a person or a program does it, and stores with such reviews."""

from __future__ import annotations

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


def review(client: httpx2.Client, job: str, **said: Any) -> dict[str, Any]:
    """Say something of a job: review(client, id, verdict="accepted"); what counts then."""
    told = client.post(f"/jobs/{job}/feedback", json=said)
    assert told.status_code == 200, told.text
    newest: dict[str, Any] = told.json()["feedback"][-1]
    return newest


def corrected(critique: Critique, **scores: float) -> Critique:
    """With other scores: corrected(critique, Lighting=2.5); the overall one stays."""
    new = tuple(
        d.model_copy(update={"score": scores.get(d.name, d.score)}) for d in critique.dimensions
    )
    return critique.model_copy(update={"dimensions": new})


def open_store(path: Path) -> JobStore:
    return JobStore(open_engine(str(path)), LeasePolicy(lease_seconds=30, tries=3))


def served(store: JobStore, critique: Critique, filename: str = "0.jpg", **values: Any) -> JobRow:
    """A finished job of the service."""
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


def say(store: JobStore, row: JobRow, critique: Critique | None, /, **told: Any) -> None:
    """Feedback straight into the table; `critique` is the one as served."""
    original = serialize_critique(critique) if critique else None
    assert add_feedback(store.engine, row, told, {"ansel": original})
