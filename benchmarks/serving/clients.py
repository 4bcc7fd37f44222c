"""Clients that ask one request after the other, and what they see."""

from __future__ import annotations

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

from mondrian.core.params import IMAGE
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import is_schema_valid

TIMEOUT = 300.0  # of one request, as today's clients have it


@dataclass(frozen=True)
class Seen:
    """One answer as a client saw it; status 0 where none came."""

    status: int
    seconds: float
    tokens: int = 0
    text: str = ""
    version: str = ""


@dataclass(frozen=True)
class Load:
    """All answers, and how long it took from the first request to the last answer."""

    seen: list[Seen]
    seconds: float

    @property
    def good(self) -> list[Seen]:
        """Those that came."""
        return [one for one in self.seen if one.status == 200]

    @property
    def statuses(self) -> dict[str, int]:
        """How many of each."""
        return {str(k): n for k, n in sorted(Counter(s.status for s in self.seen).items())}

    def figures(self) -> dict[str, Any]:
        """As the results have them."""
        good, took = self.good, sorted(1000 * one.seconds for one in self.good)
        tokens = sum(one.tokens for one in good)
        p50, p95, p99 = (
            round(float(np.percentile(took, p)), 1) if took else None for p in (50, 95, 99)
        )
        return {
            "requests": len(self.seen),
            "lost": len(self.seen) - len(good),
            "requests_per_second": round(len(good) / self.seconds, 3),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "tokens_per_second": round(tokens / self.seconds, 1),
            "mean_tokens": round(tokens / max(1, len(good)), 1),
            "schema_valid": round(
                sum(is_schema_valid(s.text) for s in good) / max(1, len(good)), 4
            ),
            "statuses": self.statuses,
        }


Ask = Callable[[httpx.AsyncClient, bytes], Awaitable[Seen]]


def ask_ours(url: str) -> Ask:
    """POST /analyze."""

    async def ask(client: httpx.AsyncClient, photo: bytes) -> Seen:
        started = perf_counter()
        answer = await client.post(f"{url}/analyze", files={"image": ("photo.jpg", photo)})
        took = perf_counter() - started
        if answer.status_code != 200:
            return Seen(answer.status_code, took)
        told = answer.json()
        return Seen(200, took, told["tokens"], told["full_response"], told["adapter_version"] or "")

    return ask


def ask_theirs(url: str, model: str, persona: str, limit: int) -> Ask:
    """POST /v1/chat/completions with the prompt that ours gives its model."""

    async def ask(client: httpx.AsyncClient, photo: bytes) -> Seen:
        body = {
            "model": model,
            "messages": _messages(persona, photo),
            "max_tokens": limit,
            "temperature": 0,
        }
        started = perf_counter()
        answer = await client.post(f"{url}/v1/chat/completions", json=body)
        took = perf_counter() - started
        if answer.status_code != 200:
            return Seen(answer.status_code, took)
        told = answer.json()
        text = told["choices"][0]["message"]["content"] or ""
        return Seen(200, took, told["usage"]["completion_tokens"], text)

    return ask


def _messages(persona: str, photo: bytes) -> list[dict[str, Any]]:
    system, user = row_messages(persona, "")[:-1]
    url = "data:image/jpeg;base64," + b64encode(photo).decode()
    parts = [
        {"type": "text", "text": user["content"].replace(IMAGE, "")},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return [system, {"role": "user", "content": parts}]


async def drive(
    ask: Ask, photos: Sequence[bytes], clients: int, least: int, seconds: float = 0.0
) -> Load:
    """Let clients ask until `least` requests are made and the time is over."""
    seen: list[Seen] = []
    numbers = count()
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        await one(ask, client, photos[-1])  # the first one ever is not counted
        started = perf_counter()

        def wanted() -> Iterator[bytes]:
            while (number := next(numbers)) < least or perf_counter() - started < seconds:
                yield photos[number % len(photos)]

        async def loop() -> None:
            for photo in wanted():
                seen.append(await one(ask, client, photo))

        await asyncio.gather(*(loop() for _ in range(clients)))
        return Load(seen, perf_counter() - started)


async def one(ask: Ask, client: httpx.AsyncClient, photo: bytes) -> Seen:
    """One request, whatever becomes of it."""
    started = perf_counter()
    try:
        return await ask(client, photo)
    except (httpx.HTTPError, ValueError, KeyError):
        return Seen(0, perf_counter() - started)
