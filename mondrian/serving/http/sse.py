"""Server-sent events: their format, limits, and polling for the state that they report."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from mondrian.serving.http.security import client_address

State = TypeVar("State")
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def format_event(payload: dict[str, Any], name: str = "") -> str:
    """Return one event. It is ASCII: some clients split lines at other Unicode line ends too."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload)}\n\n"


class EventStreams:
    """The open event streams that follow jobs: their number and age are limited.

    A stream that is one too many ends the oldest one of the same client, or of the client with
    the most. Clients reconnect when a stream ends before the job.
    """

    def __init__(self, total: int = 256, per_client: int = 64, seconds: float = 600.0) -> None:
        self.total, self.per_client, self.seconds = total, per_client, seconds
        self._by_client: defaultdict[str, list[asyncio.Timeout]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self._by_client.values()))

    @contextmanager
    def track(self, client: str, timeout: asyncio.Timeout) -> Iterator[None]:
        """Count a stream, which its timeout can end."""
        streams = self._by_client[client]
        if len(streams) >= self.per_client:
            _end_oldest(streams)
        elif len(self) >= self.total:
            _end_oldest(max(self._by_client.values(), key=len))
        streams.append(timeout)
        try:
            yield
        finally:
            if timeout in streams:
                streams.remove(timeout)
            if not self._by_client[client]:
                del self._by_client[client]


def _end_oldest(streams: list[asyncio.Timeout]) -> None:
    oldest = streams.pop(0)
    if not oldest.expired():  # else it is ending already
        oldest.reschedule(asyncio.get_running_loop().time())


class EventStreamResponse(StreamingResponse):
    """A response that ends, as if its events had, when `EventStreams` ends it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams: EventStreams = scope["app"].state.event_streams
        last: Message = {}

        async def send_and_note(message: Message) -> None:
            nonlocal last
            last = message
            await send(message)

        timeout = asyncio.timeout(streams.seconds)
        try:
            async with timeout:
                with streams.track(client_address(scope), timeout):
                    await super().__call__(scope, receive, send_and_note)
        except TimeoutError:
            if not timeout.expired():
                raise
            if not last:
                head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(head)
            if last.get("more_body", True):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_stream(
    events: AsyncIterator[str], limited: bool = True, **headers: str
) -> StreamingResponse:
    """Return the response of a stream; `limited` if a client can reconnect to it."""
    response = EventStreamResponse if limited else StreamingResponse
    return response(events, media_type="text/event-stream", headers=_HEADERS | headers)


async def poll(load: Callable[[], Awaitable[State]], seconds: float) -> AsyncIterator[State]:
    """Yield what `load` returns, now and then every `seconds`."""
    while True:
        yield await load()
        await asyncio.sleep(seconds)
