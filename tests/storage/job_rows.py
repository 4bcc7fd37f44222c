"""Rows of the jobs table."""

from typing import Any
from uuid import uuid4

from mondrian.storage.jobs import JobRow, JobStore


def new_job(**values: Any) -> JobRow:
    return {
        "id": str(uuid4()),
        "filename": "uploads/a.jpg",
        "advisor": "ansel",
        "mode": "baseline",
        "status": "queued",
        "kind": "upload",
        **values,
    }


def get_row(store: JobStore, id: str) -> JobRow:
    row = store.get(id)
    assert row
    return row
