"""Server-sent events: their format, and polling for the state that they report."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse

State = TypeVar("State")
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def format_event(payload: dict[str, Any], name: str = "") -> str:
    """Return one event. It is ASCII: some clients split lines at other Unicode line ends too."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload)}\n\n"


def event_stream(events: AsyncIterator[str], **headers: str) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers=_HEADERS | headers)


async def poll(load: Callable[[], Awaitable[State]], seconds: float) -> AsyncIterator[State]:
    """Yield what `load` returns, now and then every `seconds`."""
    while True:
        yield await load()
        await asyncio.sleep(seconds)
