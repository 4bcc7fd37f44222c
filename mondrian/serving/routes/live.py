"""A critique as it grows, as server-sent events for the page that watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from mondrian.serving.http.request_parsing import clean_id
from mondrian.serving.routes.analyze import SSE_HEADERS, format_sse_event
from mondrian.serving.service import Service, get_service
from mondrian.storage.jobs import ACTIVE_STATUSES, JobRow

router = APIRouter(include_in_schema=False)
POLL, QUIET = 0.25, 10.0  # seconds: between two looks, and without a word before a sign of life


@router.get("/live/{id}")
async def live(request: Request, id: str) -> StreamingResponse:
    """Step, share and the whole text so far, whenever they change; {"ended": true} at the end."""
    events = _events(get_service(request), clean_id(id))
    return StreamingResponse(events, media_type="text/event-stream", headers=SSE_HEADERS)


async def _events(service: Service, id: str) -> AsyncIterator[str]:
    last: JobRow = {}
    heard = monotonic()
    while not service.draining:
        state = await _load_progress(service, id)
        if state != last:
            last, heard = state, monotonic()
            yield format_sse_event(state)
            if state.get("ended"):
                return
        elif monotonic() - heard > QUIET:
            heard = monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(POLL)


async def _load_progress(service: Service, id: str) -> JobRow:
    here = service.work.partial_output(id)
    if here is not None:
        name = service.params.profile(here["advisor"]).name
        step, share, text = here["current_step"], here["progress_percentage"], here["text"]
        return {"step": step, "share": share, "text": text, "advisor": name}
    row = await service.work.call_store(service.store.get, id)
    if row is None or row["status"] not in ACTIVE_STATUSES:
        return {"ended": True}
    return {"step": row["current_step"], "share": row["progress_percentage"], "text": ""}
