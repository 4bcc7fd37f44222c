"""An OpenAI-compatible server as the engine: base and adapters are models of it, by name.

vLLM serves LoRA modules that way and holds answers to a schema; a server that does not know
`response_format` answers freely, and its answers are checked all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from io import BytesIO
from time import monotonic
from typing import Any

import httpx2 as httpx

from mondrian.core.params import IMAGE
from mondrian.critique.schema import json_schema
from mondrian.serving.engines.base import (
    Adapter,
    Completion,
    CritiqueRequest,
    EngineFault,
    EngineState,
    NoAdapter,
    TimedOut,
)

_POLL_INTERVAL = 5.0  # seconds between two looks at what the server has
log = logging.getLogger("mondrian.remote")


class RemoteEngine:
    """Critiques by POST /chat/completions.

    url     of the API, with its /v1
    models  names there: of the base under "base", else by advisor
    """

    def __init__(
        self, url: str, models: dict[str, str], rows: int, max_new_tokens: int, guided: bool
    ) -> None:
        self.url, self.models, self.guided = url.rstrip("/"), models, guided
        self.limit = max_new_tokens
        self.state = EngineState(model=models["base"], rows=rows, device=self.url)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(30.0, read=None))
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._looking = asyncio.create_task(self._poll_models())

    async def _poll_models(self) -> None:
        while True:
            await self._refresh_state()
            await asyncio.sleep(_POLL_INTERVAL if self.state.status == "ready" else 0.5)

    async def _refresh_state(self) -> None:
        """What the server has: ready where it has the base."""
        state = self.state
        try:
            answer = await self._client.get(f"{self.url}/models", timeout=10)
            model_ids = {str(entry["id"]) for entry in answer.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            if state.status == "ready":
                log.error("engine: %s does not answer: %s", self.url, error)
            state.status, state.message = "loading", f"{self.url} does not answer"
            return
        if state.model not in model_ids:
            state.status = "loading"
            state.message = f"{self.url} has no model {state.model} (it has {_few(model_ids)})"
            return
        for name, model in self.models.items():
            if name == "base":
                continue
            fault = "" if model in model_ids else f"{self.url} has no model {model}"
            state.adapters[name] = Adapter(name, model, "" if fault else model, fault=fault)
        state.status, state.message, state.progress = "ready", "", 100

    async def critique(self, question: CritiqueRequest) -> Completion:
        model = self.models["base"]
        if question.adapter:
            adapter = self.state.adapters.get(question.adapter)
            if adapter is None or not adapter.serves:
                raise NoAdapter(f"no adapter serves for {question.advisor}")
            model = adapter.version
        started = monotonic()
        first, text, tokens = 0.0, [], 0
        try:
            async with asyncio.timeout(question.timeout_seconds):
                async for piece in self._stream_text(model, question):
                    first = first or monotonic() - started
                    if piece:
                        text.append(piece)
                        tokens += 1
                        if question.on_text:
                            question.on_text(piece, tokens)
        except TimeoutError:
            raise TimedOut(f"not done after {question.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            self.state.status, self.state.message = "loading", f"{self.url} does not answer"
            raise EngineFault(f"{self.url}: {error or type(error).__name__}") from None
        took = monotonic() - started
        return Completion("".join(text), tokens, model, first, took, took - first, folder=model)

    async def _stream_text(self, model: str, question: CritiqueRequest) -> AsyncIterator[str]:
        """Text as it comes."""
        messages = await asyncio.to_thread(_build_messages, question)  # PNG takes its time
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "max_tokens": self.limit,
            "temperature": 0,
            "stream": True,
        }
        if self.guided:
            schema = {key: value for key, value in json_schema().items() if key != "x-guidance"}
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "critique", "strict": True, "schema": schema},
            }
        async with self._client.stream("POST", f"{self.url}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                detail = " ".join((await answer.aread()).decode("utf-8", "replace").split())[:200]
                raise EngineFault(f"{self.url} answered {answer.status_code}: {detail}")
            async for line in answer.aiter_lines():
                if not line.startswith("data:") or line.strip() == "data: [DONE]":
                    continue
                yield _parse_chunk(line[5:])

    async def stop(self) -> None:
        if self._looking:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self._client.aclose()


def _parse_chunk(data: str) -> str:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineFault(str(chunk["error"])[:200])
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        return str((choice.get("delta") or {}).get("content") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineFault(f"no answer of the protocol: {data[:120]!r}") from None


def _build_messages(question: CritiqueRequest) -> list[dict[str, Any]]:
    """The prompt with the photograph as a data: URL, unchanged bit for bit."""
    content = BytesIO()
    question.picture.save(content, "PNG")
    url = "data:image/png;base64," + b64encode(content.getvalue()).decode()
    out: list[dict[str, Any]] = []
    for message in question.messages:
        before, placeholder, after = message["content"].partition(IMAGE)
        parts: list[dict[str, Any]] = [{"type": "text", "text": before}]
        if placeholder:
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if after:
            parts.append({"type": "text", "text": after})
        out.append({"role": message["role"], "content": parts if placeholder else before})
    return out


def _few(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "none"
