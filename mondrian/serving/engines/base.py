"""The interface of an engine: what generates critiques for the service."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from mondrian.core.errors import MondrianError
from mondrian.critique.calibration import Calibration

TextCallback = Callable[[str, int], None]  # new text, tokens generated so far


@dataclass(frozen=True)
class CritiqueRequest:
    advisor: str
    adapter: str  # its name; empty for the base
    messages: list[dict[str, str]]
    image: Image.Image = field(repr=False)
    timeout_seconds: float
    on_text: TextCallback
    stream: bool  # on_text needs the text itself, not only the number of tokens


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int
    version: str
    first_token_seconds: float  # from the request's arrival at the engine, as `seconds`
    seconds: float
    decode_seconds: float  # of all steps after the first token, shared or not
    folder: str  # of the adapter; empty for the base
    warm: bool = False  # the KV cache of the prompt was reused
    calibration: Calibration | None = None  # of the adapter's scores; not yet applied to `text`


@dataclass(frozen=True)
class Adapter:
    """An adapter that serves, or one that was rejected: it has no version and a fault."""

    name: str
    folder: str
    version: str
    merged: bool = False
    bytes: int = 0  # of memory, in addition to the base
    fault: str = ""  # why its newest files were rejected
    calibrated: bool = False  # its scores are shown calibrated

    @property
    def serves(self) -> bool:
        return bool(self.version)


@dataclass
class EngineState:
    status: str = "loading"  # or ready, or error
    message: str = "starting"
    progress: int = 0  # percent
    model: str = ""
    base_hash: str = ""  # sha256 of the base; empty if unknown
    device: str = ""
    using_gpu: bool = False
    batch_size: int = 1  # critiques at a time
    memory_bytes: int = 0  # bytes of the model process
    restarts: int = 0
    adapters: dict[str, Adapter] = field(default_factory=dict)
    adapters_scanned: bool = False  # once, so requests can be answered


class EngineFault(MondrianError):
    """A critique could not be generated."""


class ModelDied(EngineFault):
    """The model process ended while it generated the critique."""


class NoAdapter(EngineFault):
    """The requested adapter does not serve."""


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
