"""Jobs of a running service: sent by HTTP, or inserted into its database."""

import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
from PIL import Image

from tests.core.odd_photos import encode
from tests.service_process import ServiceProcess
from tests.waiting import PATIENCE, wait_for


def encode_jpeg(photo: Image.Image) -> bytes:
    return encode(photo, "JPEG", quality=95)


def upload(service: ServiceProcess, jpegs: list[bytes], count: int) -> list[str]:
    """Queue critiques of these photos in turn; return the ids of their jobs."""
    with service.client() as client:
        ids = []
        for i in range(count):
            file = {"image": (f"{i}.jpg", jpegs[i % len(jpegs)])}
            response = client.post("/upload", files=file, data={"advisor": "ansel"})
            assert response.status_code == 201, response.text
            ids.append(response.json()["job_id"])
        return ids


def job_rows(service: ServiceProcess) -> list[dict[str, Any]]:
    connection = sqlite3.connect(service.db, timeout=PATIENCE)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute("SELECT * FROM jobs")]
    finally:
        connection.close()


def wait_until_ended(service: ServiceProcess, ids: list[str]) -> Counter[str]:
    """Return the statuses of jobs once none is queued or analyzing."""

    def find_statuses() -> Counter[str] | None:
        states = Counter(row["status"] for row in job_rows(service) if row["id"] in ids)
        return None if states.keys() & {"queued", "analyzing"} else states

    return wait_for(find_statuses, service.log)


def has_started_a_job(service: ServiceProcess) -> bool:
    return any(row["status"] == "analyzing" for row in job_rows(service))


def analyze(service: ServiceProcess, jpeg: bytes, **data: str) -> Any:
    with service.client() as client:
        return client.post("/analyze", files={"image": ("a.jpg", jpeg)}, data=data)


def wait_until(client: httpx2.Client, id: str, status: str) -> str:
    """Wait until a job has a status; return its id. A job that fails is an error."""

    def has_status() -> bool:
        job = client.get(f"/status/{id}").json()
        assert job["status"] != "failed", job["error"]
        return bool(job["status"] == status)

    wait_for(has_status)
    return id


def upload_photos(
    service: ServiceProcess, *photos: Path, wait: bool = True, **fields: str
) -> list[str]:
    """Request critiques by HTTP; return their ids, by default once they are completed."""
    data = {"advisor": "ansel", "mode": "base", **fields}
    ids = []
    with service.client() as client:
        for photo in photos:
            files = {"image": (photo.name, photo.read_bytes())}
            ids.append(client.post("/upload", files=files, data=data).json()["job_id"])
        for id in ids if wait else ():
            wait_until(client, id, "completed")
    return ids


def get_row(service: ServiceProcess, id: str) -> dict[str, Any]:
    with service.client() as client:
        row: dict[str, Any] = client.get(f"/status/{id}").json()
        return row


def insert_job(service: ServiceProcess, **values: Any) -> str:
    """Insert a job directly into the database, as another program would; return its id."""
    row = {
        "id": str(uuid4()),
        "advisor": "ansel",
        "status": "completed",
        "queued_at": time.time(),
        "created_at": "2026-01-02T03:04:05.000+00:00",
        **values,
    }
    marks = ", ".join("?" * len(row))
    with sqlite3.connect(service.db) as connection:
        connection.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})", [*row.values()])
    connection.close()
    return str(row["id"])
