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


class RemoteEngine:
    """Critiques by POST /chat/completions.

    url     of the API, with its /v1
    models  model names there: the base's under "base", the others by advisor
    """

    def __init__(
        self, url: str, models: dict[str, str], batch_size: int, max_tokens: int, constrained: bool
    ) -> None:
        self.url, self.models, self.constrained = url.rstrip("/"), models, constrained
        self.max_tokens = max_tokens  # of a completion
        self.state = EngineState(model=models["base"], batch_size=batch_size, device=self.url)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(30.0, read=None))
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
            response = await self._client.get(f"{self.url}/models", timeout=10)
            model_ids = {str(entry["id"]) for entry in response.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            if state.status == "ready":
                log.error("engine: %s does not answer: %s", self.url, error)
            state.status, state.message = "loading", f"{self.url} does not answer"
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
                detail = " ".join((await response.aread()).decode("utf-8", "replace").split())[:200]
                raise EngineFault(f"{self.url} answered {response.status_code}: {detail}")
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
