"""What service and model process tell each other, over a pipe that only the two of them hold."""

from __future__ import annotations

from dataclasses import dataclass, field

BASE_ARM = ""  # the arm without an adapter


@dataclass(frozen=True)
class WorkerConfig:
    """To the model, first of all: what to load and how to answer.

    pixel_limits  min_pixels and max_pixels of a photograph
    rows   critiques at a time, where memory allows
    """

    base: str
    pixel_limits: tuple[int, int]
    rows: int
    max_new_tokens: int
    constrained: bool = True


@dataclass(frozen=True)
class GenerateRequest:
    """To the model: critique a photograph that `images.fit` made.

    arm      an advisor's adapter, or BASE
    pixels   RGB, size[0] * size[1] * 3 bytes
    max_seconds  after which it is given up
    stream   tell the text as it grows; else only how much there is
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
    """To the model: nobody waits for it any more."""

    id: int


@dataclass(frozen=True)
class ShutdownRequest:
    """To the model: end."""


@dataclass(frozen=True)
class LoadAdapterRequest:
    """To the model: load an advisor's adapter under a name, or replace it.

    merge   put it into weights of its own, where those are not packed and memory is left
    prompt_hash  sha256 of the prompt that it has to be trained with
    pixel_bounds   min_pixels and max_pixels that it has to be trained with
    """

    name: str
    folder: str
    merge: bool
    prompt_hash: str
    pixel_bounds: dict[str, int]
    advisor: str


@dataclass(frozen=True)
class UnloadAdapterRequest:
    """To the model: let an adapter go; what is begun with it ends with it."""

    name: str


@dataclass(frozen=True)
class LoadProgress:
    """From the model: how far it is, 0 to 100."""

    message: str
    progress: int


@dataclass(frozen=True)
class ModelReady:
    """From the model: the base has answered. rows is how many critiques it makes at a time."""

    base: str
    base_hash: str
    device: str
    using_gpu: bool
    rows: int


@dataclass(frozen=True)
class FatalError:
    """From the model, before it ends: it cannot ever work as it is set up."""

    reason: str


@dataclass(frozen=True)
class AdapterLoadResult:
    """From the model: an adapter serves, or `fault` says why the one before it, if any, still does.

    bytes  that it takes beside the base
    """

    name: str
    folder: str
    version: str
    fault: str = ""
    merged: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class TokensGenerated:
    """From the model: (id, more text, tokens so far) of critiques under way."""

    rows: list[tuple[int, str, int]]


@dataclass(frozen=True)
class GenerationResult:
    """From the model: a critique has ended.

    first_seconds  from its arrival at the model to its first token
    seconds        to its last
    decode_seconds         seconds of all steps after the first, shared with others or not
    warm           whether its prompt was known
    folder         of the adapter; empty for the base
    """

    id: int
    text: str
    tokens: int
    version: str
    first_seconds: float
    seconds: float
    decode_seconds: float
    warm: bool
    folder: str


@dataclass(frozen=True)
class GenerationFailure:
    """From the model: a critique will not end. kind is adapter, time or model."""

    id: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Heartbeat:
    """From the model, every second.

    stalled_seconds  the longest that a lane with work has not made a step, in seconds
    """

    memory: int
    stalled_seconds: float
