"""An OpenAI-compatible server as the engine: base and adapters are model names there.

vLLM serves LoRA modules like this and constrains its output to a schema. A server that ignores
`response_format` generates freely; every completion is validated anyway.
"""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from time import monotonic
from typing import Any

import httpx2 as httpx

from mondrian.core.errors import one_line
from mondrian.core.params import IMAGE_PLACEHOLDER
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

_POLL_INTERVAL = 5.0  # seconds between two requests for the server's models
log = logging.getLogger("mondrian.remote")


@dataclass(frozen=True)
class RemoteServer:
    url: str  # of the API, with its /v1
    models: dict[str, str]  # names there: the base's under "base", the others by advisor
    key: str = field(default="", repr=False)  # API key; empty for none


class RemoteEngine:
    """Critiques by POST /chat/completions."""

    def __init__(
        self, server: RemoteServer, batch_size: int, max_tokens: int, constrained: bool
    ) -> None:
        self.url, self.models, self.constrained = server.url.rstrip("/"), server.models, constrained
        self.max_tokens = max_tokens  # of a completion
        self.state = EngineState(model=self.models["base"], batch_size=batch_size, device=self.url)
        self._has_key = bool(server.key)
        headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
        timeout = httpx.Timeout(30.0, read=None)
        self._client = httpx.AsyncClient(timeout=timeout, headers=headers)
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._poller = asyncio.create_task(self._poll_models())

    async def _poll_models(self) -> None:
        while True:
            await self._refresh_state()
            await asyncio.sleep(_POLL_INTERVAL if self.state.status == "ready" else 0.5)

    async def _refresh_state(self) -> None:
        """Ask which models the server has; the engine is ready if the base is one of them."""
        state = self.state
        try:
            model_ids = await self._load_model_ids()
        except EngineFault as error:
            if state.message != str(error):
                log.error("engine: %s", error)
            state.status, state.message = "loading", str(error)
            return
        if state.model not in model_ids:
            names = ", ".join(sorted(model_ids)[:5]) or "none"
            state.status = "loading"
            state.message = f"{self.url} has no model {state.model} (it has {names})"
            return
        for name, model in self.models.items():
            if name != "base":
                fault = "" if model in model_ids else f"{self.url} has no model {model}"
                state.adapters[name] = Adapter(name, model, "" if fault else model, fault=fault)
        state.status, state.message, state.progress = "ready", "", 100

    async def _load_model_ids(self) -> set[str]:
        """Return the ids of the server's models; or raise EngineFault."""
        try:
            response = await self._client.get(f"{self.url}/models", timeout=10)
        except httpx.HTTPError:
            raise EngineFault(f"{self.url} does not answer") from None
        if response.status_code != 200:
            raise EngineFault(self._explain_status(response.status_code, response.text))
        try:
            return {str(entry["id"]) for entry in response.json()["data"]}
        except (ValueError, KeyError, TypeError):
            message = f"{self.url}/models is not a list of models; does --engine_url end in /v1?"
            raise EngineFault(message) from None

    def _explain_status(self, status: int, body: str) -> str:
        """Return what an HTTP status other than 200 means, with the fix if it is known."""
        if status in (401, 403):
            problem = "was refused" if self._has_key else "is not set"
            fix = f"MONDRIAN_ENGINE_KEY {problem}; it must be an API key of that server"
        elif status == 404:
            fix = "does --engine_url end in /v1, and does it have this model?"
        else:
            fix = " ".join(body.split())[:200]
        return f"{self.url} answered {status}: {fix}"

    async def critique(self, request: CritiqueRequest) -> Completion:
        model = self.models["base"]
        if request.adapter:
            adapter = self.state.adapters.get(request.adapter)
            if adapter is None or not adapter.serves:
                raise NoAdapter(f"no adapter serves for {request.advisor}")
            model = adapter.version
        started = monotonic()
        first_token_seconds, texts = 0.0, []
        try:
            async with asyncio.timeout(request.timeout_seconds):
                async for text in self._stream_text(model, request):
                    first_token_seconds = first_token_seconds or monotonic() - started
                    if text:
                        texts.append(text)
                        request.on_text(text, len(texts))
        except TimeoutError:
            raise TimedOut(f"not done after {request.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            self.state.status, self.state.message = "loading", f"{self.url} does not answer"
            raise EngineFault(f"{self.url}: {one_line(error)}") from None
        seconds = monotonic() - started
        times = (first_token_seconds, seconds, seconds - first_token_seconds)
        return Completion("".join(texts), len(texts), model, *times, model)

    async def _stream_text(self, model: str, request: CritiqueRequest) -> AsyncIterator[str]:
        body: dict[str, Any] = {
            "model": model,
            "messages": await asyncio.to_thread(_build_messages, request),  # PNG encoding is slow
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
        }
        if self.constrained:
            schema = {key: value for key, value in json_schema().items() if key != "x-guidance"}
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "critique", "strict": True, "schema": schema},
            }
        url = f"{self.url}/chat/completions"
        async with self._client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode("utf-8", "replace")
                raise EngineFault(self._explain_status(response.status_code, text))
            async for line in response.aiter_lines():
                if line.startswith("data:") and line.strip() != "data: [DONE]":
                    yield _parse_chunk(line[5:])

    async def stop(self) -> None:
        if self._poller:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
        await self._client.aclose()


def _parse_chunk(data: str) -> str:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineFault(str(chunk["error"])[:200])
        choice = chunk["choices"][0] if chunk.get("choices") else {}
        return str((choice.get("delta") or {}).get("content") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineFault(f"not a chunk of a chat completion: {data[:120]!r}") from None


def _build_messages(request: CritiqueRequest) -> list[dict[str, Any]]:
    """Return the prompt with the image as a data: URL, in PNG so that its pixels do not change."""
    png = BytesIO()
    request.image.save(png, "PNG")
    url = "data:image/png;base64," + b64encode(png.getvalue()).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        before, placeholder, after = message["content"].partition(IMAGE_PLACEHOLDER)
        content: Any = before
        if placeholder:
            content = [{"type": "text", "text": before}, image]
            if after:
                content.append({"type": "text", "text": after})
        messages.append({"role": message["role"], "content": content})
    return messages
