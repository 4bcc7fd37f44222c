"""What differs between devices: kernels, streams, types. `DEVICE` is the one in use.

MONDRIAN_DEVICE=gpu-float16 or gpu-bfloat16 computes every base in that type, and on a CPU as on a
GPU: MLX's own kernels, one stream. The tests of a GPU's branches use it; on a CPU it is slow.
"""

import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import mlx.core as mx

from mondrian.model.cpu.attention import KEPT_SCORES, QUERY_BLOCK_SIZE

FORCED_TYPES = {"gpu-float16": mx.float16, "gpu-bfloat16": mx.bfloat16}
_SMALL_BASE = 50_000_000  # weights up to which float32 costs little and rounding is avoided
_STOCK_TILE = 1024  # queries of a tile in the gradient of MLX's attention on Metal
_FIRST_WITH_TILES = (0, 32, 4)  # version of MLX; before it, all scores were kept in training
_TILES_SWITCH = "MLX_SDPA_VJP_FALLBACK"  # MLX's variable that brings the older gradient back
# cuDNN's attention keeps no scores. MLX 0.32 uses its gradient for multiples of 128 queries in
# float16 and bfloat16 only (ScaledDotProductAttentionVJP::use_fallback, supports_sdpa_cudnn).
_CUDNN_TILE = 128


@dataclass(frozen=True)
class Device:
    kind: Literal["cpu", "metal", "cuda"]
    own_kernels: bool  # mondrian/model/cpu's instead of MLX's
    num_streams: int  # that share the rows of a batch
    query_block: int  # queries whose attention scores exist at the same time; 0 for all
    keeps_scores: bool  # whether each layer keeps its attention scores for the gradient
    kept_scores: int = 0  # if not, those of a row and layer up to which they are kept all the same
    float_type: Any = None  # of weights and activations; None for the type that a base is stored in
    query_multiple: int = 1  # queries of causal attention are padded to a multiple of this

    @property
    def is_gpu(self) -> bool:
        return self.kind != "cpu"

    def for_base(self, num_weights: int) -> "Device":
        """Return the device with the type for a base of this size: a small one is in float32."""
        if self.float_type is None and num_weights <= _SMALL_BASE:
            return self.with_type(mx.float32)
        return self

    def with_type(self, float_type: Any) -> "Device":
        if self.kind == "cuda" and float_type == mx.float32:  # cuDNN's attention has no float32
            return replace(self, float_type=float_type, query_block=0, keeps_scores=True)
        return replace(self, float_type=float_type)

    @property
    def float_bytes(self) -> int:
        return 2 if self.float_type is None else int(self.float_type.size)


CPU = Device("cpu", True, 2, QUERY_BLOCK_SIZE, False, KEPT_SCORES, mx.float32)
METAL = Device("metal", False, 1, _STOCK_TILE, False)
CUDA = Device("cuda", False, 1, _CUDNN_TILE, False, query_multiple=_CUDNN_TILE)
FORCED_GPU = Device("cpu", False, 1, 0, True)


def choose_metal(mlx_version: str) -> Device:
    """Return METAL; if this MLX's attention has no gradient in tiles, one that keeps its scores."""
    numbers = tuple(int(number) for number in mlx_version.split(".")[:3] if number.isdigit())
    is_switched_off = os.environ.get(_TILES_SWITCH, "0") not in ("", "0")
    if numbers >= _FIRST_WITH_TILES and not is_switched_off:
        return METAL
    return replace(METAL, query_block=0, keeps_scores=True)


def detect_device() -> Device:
    """Return the device in use; end the process with one line if MONDRIAN_DEVICE is unknown.

    Modules read DEVICE when they are imported, before anything can report an error.
    """
    forced = os.environ.get("MONDRIAN_DEVICE", "")
    if forced and forced not in FORCED_TYPES:
        names = ", ".join(FORCED_TYPES)
        sys.exit(f"error: MONDRIAN_DEVICE is {forced!r}; it may be {names}, or not be set")
    if mx.default_device().type == mx.DeviceType.gpu:
        device = choose_metal(version("mlx")) if mx.metal.is_available() else CUDA
    else:
        device = FORCED_GPU if forced else CPU
    return device.with_type(FORCED_TYPES[forced]) if forced else device


def type_name(dtype: Any) -> str:
    """Return the name of a type of MLX, such as bfloat16."""
    return str(dtype).removeprefix("mlx.core.")


DEVICE = detect_device()
