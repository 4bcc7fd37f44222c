"""Critiques reviewed by HTTP, as a person or a program does it, and stores with such reviews."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from mondrian.critique.schema import Critique, canonical
from mondrian.storage.engine import open_engine
from mondrian.storage.feedback import keep
from mondrian.storage.jobs import Row, Rules, Store


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


def open_store(path: Path) -> Store:
    return Store(open_engine(str(path)), Rules(lease_seconds=30, tries=3))


def served(store: Store, critique: Critique, filename: str = "0.jpg", **values: Any) -> Row:
    """A finished job of the service."""
    text = canonical(critique)
    row, _ = store.add({
        "id": str(uuid4()), "filename": filename, "advisor": "ansel", "mode": "base",
        "kind": "upload", "status": "completed", "llm_outputs": json.dumps({"response": text}),
        "model_used": "base", "photo_sha256": filename, "completed_at": str(time.time()), **values,
    })  # fmt: skip
    return row


def say(store: Store, row: Row, critique: Critique | None, /, **told: Any) -> None:
    """Feedback straight into the table; `critique` is the one as served."""
    original = canonical(critique) if critique else None
    assert keep(store.engine, row, told, {"ansel": original})
