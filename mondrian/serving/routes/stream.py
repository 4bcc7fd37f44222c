"""Server-sent events of a job, as today's clients read them, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from mondrian.serving.http import responses
from mondrian.serving.http.openapi import told_as
from mondrian.serving.routes.analyze import STREAM, event
from mondrian.serving.service import Service, service_of
from mondrian.storage.jobs import DONE, ENDED, Row

router = APIRouter(tags=["jobs"])
POLL, UPDATE, BEAT = 0.5, 3.0, 5.0  # seconds: a look at the row, an update anyway, a heartbeat


@router.get(
    "/stream/{id}", response_class=Response, responses=told_as("text/event-stream")
)  # fmt: skip
async def stream(request: Request, id: str) -> StreamingResponse:
    """Server-sent events of a job until it has ended."""
    service = service_of(request)
    row = await service.row(id)
    headers = {**STREAM, "connection": "keep-alive"}
    return StreamingResponse(
        _events(service, row), media_type="text/event-stream", headers=headers
    )  # fmt: skip


async def _events(service: Service, row: Row) -> AsyncIterator[str]:
    id = row["id"]
    yield event({"type": "connected", "job_id": id}, "connected")
    told: Any = None
    updated = heard = thought = monotonic()
    found: Row | None = row
    while found and not service.draining:
        seen = (found["status"], found["progress_percentage"], found["current_step"])
        now = monotonic()
        if seen != told or (found["status"] == "analyzing" and now - updated > UPDATE):
            yield event(_update(found), "status_update")
            told, updated, heard = seen, now, now
        if found["llm_thinking"] and now - thought > UPDATE:
            thought = heard = now
            more = {"type": "thinking_update", "job_id": id, "thinking": found["llm_thinking"]}
            yield event(more, "thinking_update")
        if found["status"] in ENDED:
            break
        if now - heard > BEAT:
            heard = now
            yield event({"type": "heartbeat", "timestamp": responses.now()}, "heartbeat")
        await asyncio.sleep(POLL)
        found = await service.work.db(service.store.get, id)
    if found and found["status"] not in ENDED:
        return  # this service is stopping; the client asks again
    if found and found["status"] in DONE:
        more = {"type": "analysis_complete", "job_id": id, "analysis_html": found["analysis_html"]}
        yield event(more, "analysis_complete")
    yield event({"type": "done", "job_id": id}, "done")


def _update(row: Row) -> Row:
    told = responses.job(row)
    names = (
        "job_id", "status", "progress_percentage", "current_step", "llm_thinking",
        "current_advisor", "total_advisors", "step_phase", "analysis_url",
    )  # fmt: skip
    data = {name: told[name] for name in names}
    return {
        "type": "status_update",
        "job_id": row["id"],
        "timestamp": responses.now(),
        "job_data": data,
    }
