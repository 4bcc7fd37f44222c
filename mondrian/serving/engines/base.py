"""Whatever generates critiques for the service: the model process, or a server elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from mondrian.core.errors import MondrianError

TextCallback = Callable[[str, int], None]  # more text, tokens so far


@dataclass(frozen=True)
class CritiqueRequest:
    """One critique that is wanted.

    adapter  name of the adapter that is to answer; empty for the base
    on_text     is told the text as it comes; None where nobody reads along
    """

    advisor: str
    adapter: str
    messages: list[dict[str, str]]
    picture: Image.Image = field(repr=False)
    timeout_seconds: float
    on_text: TextCallback | None = None
    stream: bool = False


@dataclass(frozen=True)
class Completion:
    """A critique as text, and what it took; None where the engine does not say."""

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
    """What serves for an advisor; `fault` says why the newest of it does not."""

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
    """How an engine is: loading, ready or error."""

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


class EngineFault(MondrianError):
    """A critique that did not come about."""


class ModelDied(EngineFault):
    """The model process ended under it."""


class NoAdapter(EngineFault):
    """The adapter that was to answer is not there."""


class TimedOut(EngineFault):
    """It took longer than it may."""


class Engine(Protocol):
    """What the service wants of it; all on the event loop's thread."""

    state: EngineState

    async def start(self) -> None:
        """Begin to load; `state` says how far it is."""

    async def stop(self) -> None:
        """End what was started."""

    async def critique(self, question: CritiqueRequest) -> Completion:
        """Answer; cancelled, it frees its place. Raises EngineFault or one of its children."""
