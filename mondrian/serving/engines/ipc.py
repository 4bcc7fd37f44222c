"""Messages between the service and the model process, over a private pipe.

The service sends WorkerConfig first, then requests. The model process sends the other messages, and
an Adapter in response to LoadAdapterRequest.
"""

from dataclasses import dataclass, field

from mondrian.critique.calibration import Calibration
from mondrian.serving.engines.base import Completion, EngineFault

BASE_ARM = ""  # the arm without an adapter
MEMORY_FIX = "lower serve.batch_size in params.yaml, or use a base with fewer bits"


@dataclass(frozen=True)
class WorkerConfig:
    base: str
    pixel_limits: tuple[int, int]  # min_pixels and max_pixels of an image
    batch_size: int  # critiques at a time, if memory allows
    max_new_tokens: int
    constrained: bool = True
    cache_limit_gb: float = 2.0  # 10^9 bytes of MLX's cache on a GPU


@dataclass(frozen=True)
class GenerateRequest:
    """Critique an image that `images.resize_to_fit` made."""

    id: int
    arm: str  # name of an adapter, or BASE_ARM
    messages: list[dict[str, str]]
    size: tuple[int, int]
    pixels: bytes = field(repr=False)  # RGB, size[0] * size[1] * 3 bytes
    timeout_seconds: float
    stream: bool = False  # send the text while it is generated; else only the number of tokens


@dataclass(frozen=True)
class CancelRequest:
    id: int


@dataclass(frozen=True)
class ShutdownRequest:
    pass


@dataclass(frozen=True)
class LoadAdapterRequest:
    """Load an adapter under a name, or replace the one with that name."""

    name: str
    folder: str
    merge: bool  # into a copy of the base's weights, if they are not quantized and fit
    prompt_hash: str  # sha256 of the prompt that it must be trained with
    image_size: dict[str, int]  # min_pixels and max_pixels that it must be trained with
    advisor: str
    calibration: Calibration | None = None  # of its scores, if the version is the one that it names


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
    batch_size: int
    base_hash: str


@dataclass(frozen=True)
class FatalError:
    reason: str  # another process with the same config would end too


@dataclass(frozen=True)
class TokensGenerated:
    progress: list[tuple[int, str, int]]  # id, new text, tokens so far


@dataclass(frozen=True)
class GenerationResult:
    id: int
    result: Completion | EngineFault


@dataclass(frozen=True)
class Heartbeat:
    memory_bytes: int
    stalled_seconds: float  # since the last step; 0 without work
