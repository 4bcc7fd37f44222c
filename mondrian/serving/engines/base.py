"""The interface of an engine: what generates critiques for the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from mondrian.core.errors import MondrianError

TextCallback = Callable[[str, int], None]  # new text, tokens generated so far


@dataclass(frozen=True)
class CritiqueRequest:
    """One critique to generate.

    adapter  name of the adapter to use; empty for the base
    on_text  called with new text; None if nobody reads it
    stream   pass the text itself to on_text, not only the number of tokens
    """

    advisor: str
    adapter: str
    messages: list[dict[str, str]]
    image: Image.Image = field(repr=False)
    timeout_seconds: float
    on_text: TextCallback | None = None
    stream: bool = False


@dataclass(frozen=True)
class Completion:
    """A critique as text, with its cost; None if the engine does not report a value.

    first_token_seconds, seconds  from the request's arrival at the engine
    decode_seconds                all steps after the first token, shared or not
    warm                          the KV cache of the prompt was reused
    folder                        of the adapter; empty for the base
    """

    text: str
    tokens: int
    version: str
    first_token_seconds: float | None
    seconds: float
    decode_seconds: float | None = None
    warm: bool | None = None
    folder: str = ""


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter; `fault` says why its newest files were rejected.

    bytes  of memory, in addition to the base
    """

    name: str
    folder: str
    version: str
    merged: bool = False
    bytes: int = 0
    fault: str = ""

    @property
    def serves(self) -> bool:
        return bool(self.version)


@dataclass
class EngineState:
    """State of an engine.

    status            loading, ready or error
    rows              critiques generated at a time
    memory            bytes of the model process
    adapters_scanned  adapters were loaded once, so requests can be answered
    """

    status: str = "loading"
    message: str = "starting"
    progress: int = 0
    model: str = ""
    device: str = ""
    using_gpu: bool = False
    rows: int = 1
    memory: int = 0
    restarts: int = 0
    adapters: dict[str, Adapter] = field(default_factory=dict)
    adapters_scanned: bool = False


class EngineFault(MondrianError):
    """A critique could not be generated."""


class ModelDied(EngineFault):
    """The model process ended while it generated the critique."""


class NoAdapter(EngineFault):
    """The requested adapter is not loaded."""


class TimedOut(EngineFault):
    """The critique took longer than its timeout."""


class Engine(Protocol):
    """All methods are called on the event loop's thread."""

    state: EngineState

    async def start(self) -> None:
        """Start to load; `state` shows the progress."""

    async def stop(self) -> None: ...

    async def critique(self, request: CritiqueRequest, /) -> Completion:
        """Generate a critique; if cancelled, free its slot. Raises EngineFault."""
