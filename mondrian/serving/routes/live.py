"""A critique as it grows, as server-sent events for the page that watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from mondrian.serving.http.request_parsing import clean_id
from mondrian.serving.routes.analyze import STREAM, event
from mondrian.serving.service import Service, service_of
from mondrian.storage.jobs import LIVE, Row

router = APIRouter(include_in_schema=False)
EVERY, QUIET = 0.25, 10.0  # seconds: between two looks, and without a word before a sign of life


@router.get("/live/{id}")
async def live(request: Request, id: str) -> StreamingResponse:
    """Step, share and the whole text so far, whenever they change; {"ended": true} at the end."""
    told = _events(service_of(request), clean_id(id))
    return StreamingResponse(told, media_type="text/event-stream", headers=STREAM)


async def _events(service: Service, id: str) -> AsyncIterator[str]:
    last: Row = {}
    heard = monotonic()
    while not service.draining:
        told = await _so_far(service, id)
        if told != last:
            last, heard = told, monotonic()
            yield event(told)
            if told.get("ended"):
                return
        elif monotonic() - heard > QUIET:
            heard = monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(EVERY)


async def _so_far(service: Service, id: str) -> Row:
    here = service.work.so_far(id)
    if here is not None:
        name = service.params.profile(here["advisor"]).name
        step, share, text = here["current_step"], here["progress_percentage"], here["text"]
        return {"step": step, "share": share, "text": text, "advisor": name}
    row = await service.work.db(service.store.get, id)
    if row is None or row["status"] not in LIVE:
        return {"ended": True}
    return {"step": row["current_step"], "share": row["progress_percentage"], "text": ""}
