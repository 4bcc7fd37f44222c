"""Progress of a job as server-sent events: /stream for existing clients, /live for our pages."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from math import inf
from time import monotonic, time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from mondrian.serving.http import openapi
from mondrian.serving.http.request_parsing import clean_id
from mondrian.serving.http.responses import get_base_url, select_columns, serialize_job
from mondrian.serving.http.sse import event_stream, format_event, poll
from mondrian.serving.service import Service, get_service
from mondrian.storage.job_reader import QueueRow
from mondrian.storage.jobs import (
    ACTIVE_STATUSES,
    COMPLETED_STATUSES,
    TERMINAL_STATUSES,
    JobRow,
)

router = APIRouter(tags=["jobs"], responses=openapi.ERROR_RESPONSES)
_JOB_POLL, _UPDATE, _HEARTBEAT = 0.5, 3.0, 5.0  # seconds
_LIVE_POLL, _LIVE_QUERY, _KEEP_ALIVE = 0.25, 0.75, 10.0  # seconds
_MAX_LIVE_JOBS = 100  # in one stream


@router.get("/stream/{id}", **openapi.returns("text/event-stream"))
async def stream(request: Request, id: str) -> StreamingResponse:
    """Server-sent events of a job until it has finished."""
    service = get_service(request)
    row = await service.get_job(id)
    events = _job_events(service, row["id"], get_base_url(request))
    return event_stream(events, connection="keep-alive")


@router.get("/live", include_in_schema=False)
async def live(request: Request, ids: str = "") -> StreamingResponse:
    """Progress of several jobs, for all tabs of a browser; `ids` are separated by commas.

    Events are {id, step, share, text, place} at each change, and {id, ended: true, status} at the
    end of a job. The stream ends with the last job.
    """
    known = [id for id in map(clean_id, ids.split(",")) if id]
    if not 1 <= len(known) <= _MAX_LIVE_JOBS:
        raise HTTPException(
            400, f"ids has {len(known)} jobs; from 1 to {_MAX_LIVE_JOBS} can be sent"
        )
    return event_stream(_live_events(get_service(request), list(dict.fromkeys(known))))


async def _job_events(service: Service, id: str, base_url: str) -> AsyncIterator[str]:
    yield format_event({"type": "connected", "job_id": id}, "connected")
    last_state: Any = None
    last_update = last_event = last_thinking = monotonic()
    async for job in poll(partial(service.job_runner.call_store, service.store.get, id), _JOB_POLL):
        if job is None:
            break
        if service.draining:
            if job["status"] in TERMINAL_STATUSES:
                break
            return  # without `done`: the client reconnects
        state = (job["status"], job["progress_percentage"], job["current_step"])
        now = monotonic()
        if state != last_state or (job["status"] == "analyzing" and now - last_update > _UPDATE):
            yield format_event(_status_update(job, base_url), "status_update")
            last_state, last_update, last_event = state, now, now
        if job["llm_thinking"] and now - last_thinking > _UPDATE:
            last_thinking = last_event = now
            payload = {"type": "thinking_update", "job_id": id, "thinking": job["llm_thinking"]}
            yield format_event(payload, "thinking_update")
        if job["status"] in TERMINAL_STATUSES:
            break
        if now - last_event > _HEARTBEAT:
            last_event = now
            yield format_event({"type": "heartbeat", "timestamp": time()}, "heartbeat")
    if job and job["status"] in COMPLETED_STATUSES:
        html = job["analysis_html"]
        payload = {"type": "analysis_complete", "job_id": id, "analysis_html": html}
        yield format_event(payload, "analysis_complete")
    yield format_event({"type": "done", "job_id": id}, "done")


def _status_update(row: JobRow, base_url: str) -> dict[str, Any]:
    return {
        "type": "status_update",
        "job_id": row["id"],
        "timestamp": time(),  # seconds
        "job_data": select_columns(
            serialize_job(row, base_url),
            "job_id status progress_percentage current_step llm_thinking current_advisor "
            "total_advisors step_phase analysis_url",
        ),
    }


async def _live_events(service: Service, ids: list[str]) -> AsyncIterator[str]:
    last_states: dict[str, Any] = {}
    last_event = last_query = -inf
    rows: Mapping[str, QueueRow] = {}
    async for now in poll(_current_time, _LIVE_POLL):
        if service.draining:
            return
        if now - last_query > _LIVE_QUERY:
            rows = await service.job_runner.call_store(service.store.load_queue_rows, ids)
            last_query = now
        for id in list(ids):
            state = _live_state(service, id, rows.get(id))
            if state != last_states.get(id):
                last_states[id], last_event = state, now
                yield format_event({"id": id, **state})
            if state.get("ended"):
                ids.remove(id)
        if not ids:
            return
        if now - last_event > _KEEP_ALIVE:
            last_event = now
            yield ": still here\n\n"


async def _current_time() -> float:
    return monotonic()


def _live_state(service: Service, id: str, row: QueueRow | None) -> dict[str, Any]:
    progress = service.job_runner.progress.get(id)
    if progress is not None:  # it runs here
        name = service.params.profile(progress.advisor).name
        step = f"{name} is writing" if progress.text else f"{name} is looking at the photo"
        return {"step": step, "share": progress.page_percentage(), "text": progress.text}
    if row is None or row.status not in ACTIVE_STATUSES:
        return {"ended": True, "status": row.status if row else "deleted"}
    state: dict[str, Any] = {"step": row.current_step, "share": row.progress_percentage, "text": ""}
    if row.place:
        state |= {"step": _describe_place(row.place), "place": row.place}
    return state


def _describe_place(place: int) -> str:
    return "Next in the queue" if place == 1 else f"Number {place} in the queue"
