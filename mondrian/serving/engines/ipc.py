"""Messages between the service and the model process, over a private pipe.

The service sends WorkerConfig first, then requests; the model process sends the other messages.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mondrian.serving.engines.base import Adapter, Completion, EngineFault

BASE_ARM = ""  # the arm without an adapter
AdapterLoadResult = Adapter  # the loaded adapter, or no version and the fault it was rejected for


@dataclass(frozen=True)
class WorkerConfig:
    """What to load, and how to generate.

    pixel_limits  min_pixels and max_pixels of an image
    rows          critiques at a time, if memory allows
    """

    base: str
    pixel_limits: tuple[int, int]
    rows: int
    max_new_tokens: int
    constrained: bool = True


@dataclass(frozen=True)
class GenerateRequest:
    """Critique an image that `images.resize_to_fit` made.

    arm     name of an adapter, or BASE_ARM
    pixels  RGB, size[0] * size[1] * 3 bytes
    stream  send the text while it is generated; else only the number of tokens
    """

    id: int
    arm: str
    messages: list[dict[str, str]]
    size: tuple[int, int]
    pixels: bytes = field(repr=False)
    max_seconds: float
    stream: bool = False


@dataclass(frozen=True)
class CancelRequest:
    id: int


@dataclass(frozen=True)
class ShutdownRequest:
    pass


@dataclass(frozen=True)
class LoadAdapterRequest:
    """Load an adapter under a name, or replace the one with that name.

    merge         merge it into a copy of the base's weights, if they are not quantized and fit
    prompt_hash   sha256 of the prompt that it must be trained with
    pixel_bounds  min_pixels and max_pixels that it must be trained with
    """

    name: str
    folder: str
    merge: bool
    prompt_hash: str
    pixel_bounds: dict[str, int]
    advisor: str


@dataclass(frozen=True)
class UnloadAdapterRequest:
    name: str


@dataclass(frozen=True)
class LoadProgress:
    message: str
    progress: int  # percent


@dataclass(frozen=True)
class ModelReady:
    device: str
    using_gpu: bool
    rows: int  # critiques at a time


@dataclass(frozen=True)
class FatalError:
    """The model process ends, and would end again with the same config."""

    reason: str


@dataclass(frozen=True)
class TokensGenerated:
    rows: list[tuple[int, str, int]]  # id, new text, tokens so far


@dataclass(frozen=True)
class GenerationResult:
    id: int
    result: Completion | EngineFault


@dataclass(frozen=True)
class Heartbeat:
    """Sent every second. stalled_seconds is 0 if there is no work."""

    memory: int
    stalled_seconds: float
