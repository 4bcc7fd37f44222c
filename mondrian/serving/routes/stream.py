"""Server-sent events of a job, as today's clients read them, until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from mondrian.serving.http import responses
from mondrian.serving.http.openapi import build_responses
from mondrian.serving.routes.analyze import SSE_HEADERS, format_sse_event
from mondrian.serving.service import Service, get_service
from mondrian.storage.jobs import COMPLETED_STATUSES, FINISHED_STATUSES, JobRow

router = APIRouter(tags=["jobs"])
POLL, UPDATE, BEAT = 0.5, 3.0, 5.0  # seconds: a look at the row, an update anyway, a heartbeat


@router.get("/stream/{id}", response_class=Response, responses=build_responses("text/event-stream"))
async def stream(request: Request, id: str) -> StreamingResponse:
    """Server-sent events of a job until it has ended."""
    service = get_service(request)
    row = await service.get_job(id)
    headers = {**SSE_HEADERS, "connection": "keep-alive"}
    return StreamingResponse(_events(service, row), media_type="text/event-stream", headers=headers)


async def _events(service: Service, row: JobRow) -> AsyncIterator[str]:
    id = row["id"]
    yield format_sse_event({"type": "connected", "job_id": id}, "connected")
    last_state: Any = None
    updated = heard = thought = monotonic()
    job: JobRow | None = row
    while job and not service.draining:
        state = (job["status"], job["progress_percentage"], job["current_step"])
        now = monotonic()
        if state != last_state or (job["status"] == "analyzing" and now - updated > UPDATE):
            yield format_sse_event(_update(job), "status_update")
            last_state, updated, heard = state, now, now
        if job["llm_thinking"] and now - thought > UPDATE:
            thought = heard = now
            more = {"type": "thinking_update", "job_id": id, "thinking": job["llm_thinking"]}
            yield format_sse_event(more, "thinking_update")
        if job["status"] in FINISHED_STATUSES:
            break
        if now - heard > BEAT:
            heard = now
            yield format_sse_event(
                {"type": "heartbeat", "timestamp": responses.current_timestamp()}, "heartbeat"
            )
        await asyncio.sleep(POLL)
        job = await service.work.call_store(service.store.get, id)
    if job and job["status"] not in FINISHED_STATUSES:
        return  # this service is stopping; the client asks again
    if job and job["status"] in COMPLETED_STATUSES:
        more = {"type": "analysis_complete", "job_id": id, "analysis_html": job["analysis_html"]}
        yield format_sse_event(more, "analysis_complete")
    yield format_sse_event({"type": "done", "job_id": id}, "done")


def _update(row: JobRow) -> JobRow:
    job = responses.serialize_job(row)
    names = (
        "job_id",
        "status",
        "progress_percentage",
        "current_step",
        "llm_thinking",
        "current_advisor",
        "total_advisors",
        "step_phase",
        "analysis_url",
    )
    data = {name: job[name] for name in names}
    return {
        "type": "status_update",
        "job_id": row["id"],
        "timestamp": responses.current_timestamp(),
        "job_data": data,
    }
