"""Event streams: their number and age are limited, and each ends as a complete response."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from mondrian.serving.http.sse import EventStreams, event_stream, format_event


async def endless() -> AsyncIterator[str]:
    while True:
        yield format_event({"type": "heartbeat"})
        await asyncio.sleep(0.01)


class Client:
    """A client of event streams."""

    def __init__(self, streams: EventStreams, address: str) -> None:
        self.sent: list[Any] = []
        app = SimpleNamespace(state=SimpleNamespace(event_streams=streams))
        self.scope = {"type": "http", "app": app, "client": (address, 1)}
        self.task = asyncio.create_task(self.follow())

    async def follow(self) -> None:
        async def receive() -> Any:
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            self.sent.append(message)

        await event_stream(endless())(self.scope, receive, send)

    @property
    def is_complete(self) -> bool:
        """Whether the response has one head, first, and has ended once."""
        is_last = [not message.get("more_body", True) for message in self.sent]
        heads = [message["type"] == "http.response.start" for message in self.sent]
        return (
            heads.index(True) == 0
            and sum(heads) == 1
            and is_last == [False] * (len(is_last) - 1) + [True]
        )


async def open_streams(streams: EventStreams, addresses: str) -> list[Client]:
    """Open a stream for each character of `addresses`, one after the other."""
    clients = []
    for address in addresses:
        clients.append(Client(streams, address))
        await asyncio.sleep(0.02)
    return clients


def ended(clients: list[Client]) -> list[int]:
    return [i for i, client in enumerate(clients) if client.task.done()]


async def close(clients: list[Client]) -> None:
    for client in clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)


def test_a_stream_ends_after_a_time() -> None:
    async def run() -> None:
        streams = EventStreams(seconds=0.05)
        (client,) = await open_streams(streams, "a")
        await client.task
        assert client.is_complete
        assert len(streams) == 0

    asyncio.run(run())


def test_a_stream_too_many_ends_the_oldest_of_the_same_client() -> None:
    async def run() -> None:
        streams = EventStreams(per_client=2)
        clients = await open_streams(streams, "abaaa")
        assert ended(clients) == [0, 2]
        assert clients[0].is_complete
        assert len(streams) == 3
        await close(clients)
        assert len(streams) == 0

    asyncio.run(run())


def test_beyond_the_total_the_client_with_the_most_loses_its_oldest() -> None:
    async def run() -> None:
        streams = EventStreams(total=4)
        clients = await open_streams(streams, "abbbcd")
        assert ended(clients) == [1, 2]
        await close(clients)

    asyncio.run(run())


def test_many_streams_opened_at_once_are_complete_responses() -> None:
    async def run() -> None:
        streams = EventStreams(per_client=2)
        clients = [Client(streams, "a") for _ in range(10)]
        await asyncio.sleep(0.1)
        assert ended(clients) == list(range(8))
        assert all(client.is_complete for client in clients[:8])
        await close(clients)

    asyncio.run(run())
