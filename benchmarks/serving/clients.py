"""Clients that send one request after another, and the responses as they see them."""

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any

import httpx2 as httpx
import numpy as np

from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import is_schema_valid

TIMEOUT = 300.0  # seconds per request, the timeout of existing clients


@dataclass(frozen=True)
class Response:
    """A response as a client sees it; status 0 if none came."""

    status: int
    seconds: float
    tokens: int = 0
    text: str = ""
    version: str = ""


@dataclass(frozen=True)
class LoadResult:
    """All responses, and the seconds from the first request to the last response."""

    responses: list[Response]
    seconds: float

    @property
    def succeeded(self) -> list[Response]:
        return [response for response in self.responses if response.status == 200]

    def metrics(self) -> dict[str, Any]:
        """Return the values of an entry in the results."""
        succeeded, seconds = self.succeeded, self.seconds
        latencies = [1000 * response.seconds for response in succeeded]
        p50, p95, p99 = (
            round(float(np.percentile(latencies, p)), 1) if latencies else None
            for p in (50, 95, 99)
        )
        tokens, num_succeeded = sum(r.tokens for r in succeeded), max(1, len(succeeded))
        num_valid = sum(is_schema_valid(response.text) for response in succeeded)
        statuses = Counter(response.status for response in self.responses)
        return {
            "requests": len(self.responses),
            "lost": len(self.responses) - len(succeeded),
            "requests_per_second": round(len(succeeded) / seconds, 3),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "tokens_per_second": round(tokens / seconds, 1),
            "mean_tokens": round(tokens / num_succeeded, 1),
            "schema_valid": round(num_valid / num_succeeded, 4),
            "statuses": {str(status): n for status, n in sorted(statuses.items())},
        }


SendRequest = Callable[[httpx.AsyncClient, bytes], Awaitable[Response]]


def mondrian_request(url: str) -> SendRequest:
    """Return a sender of POST /analyze."""

    async def send(client: httpx.AsyncClient, photo: bytes) -> Response:
        started = perf_counter()
        response = await client.post(f"{url}/analyze", files={"image": ("photo.jpg", photo)})
        seconds = perf_counter() - started
        if response.status_code != 200:
            return Response(response.status_code, seconds)
        body = response.json()
        version = body["adapter_version"] or ""
        return Response(200, seconds, body["tokens"], body["full_response"], version)

    return send


def mlx_vlm_request(url: str, model: str, persona: str, max_tokens: int) -> SendRequest:
    """Return a sender of POST /v1/chat/completions with the same prompt as mondrian's."""

    async def send(client: httpx.AsyncClient, photo: bytes) -> Response:
        payload = {
            "model": model,
            "messages": _messages(persona, photo),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        started = perf_counter()
        response = await client.post(f"{url}/v1/chat/completions", json=payload)
        seconds = perf_counter() - started
        if response.status_code != 200:
            return Response(response.status_code, seconds)
        body = response.json()
        text = body["choices"][0]["message"]["content"] or ""
        return Response(200, seconds, body["usage"]["completion_tokens"], text)

    return send


def _messages(persona: str, photo: bytes) -> list[dict[str, Any]]:
    system, user = build_row_messages(persona, "")[:-1]
    url = "data:image/jpeg;base64," + b64encode(photo).decode()
    parts = [
        {"type": "text", "text": user["content"].replace(IMAGE_PLACEHOLDER, "")},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return [system, {"role": "user", "content": parts}]


async def generate_load(
    send: SendRequest,
    photos: Sequence[bytes],
    num_clients: int,
    min_requests: int,
    min_seconds: float = 0.0,
) -> LoadResult:
    """Let clients send at least `min_requests` requests for at least `min_seconds`."""
    responses: list[Response] = []
    numbers = count()
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        await send_request(send, client, photos[-1])  # warm-up, not counted
        started = perf_counter()

        def next_photos() -> Iterator[bytes]:
            while (i := next(numbers)) < min_requests or perf_counter() - started < min_seconds:
                yield photos[i % len(photos)]

        async def run_client() -> None:
            for photo in next_photos():
                responses.append(await send_request(send, client, photo))

        await asyncio.gather(*(run_client() for _ in range(num_clients)))
        return LoadResult(responses, perf_counter() - started)


async def send_request(send: SendRequest, client: httpx.AsyncClient, photo: bytes) -> Response:
    """Send a request; status 0 if there is no usable response."""
    started = perf_counter()
    try:
        return await send(client, photo)
    except (httpx.HTTPError, ValueError, KeyError):
        return Response(0, perf_counter() - started)
