"""What differs between devices: kernels, streams, types. `DEVICE` is the one in use.

MONDRIAN_DEVICE=gpu-float16 or gpu-bfloat16 computes on a CPU as on a GPU: MLX's own kernels, one
stream, weights of that type. The tests of a GPU's branches use it; it is slow.
"""

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import mlx.core as mx

from mondrian.model.cpu.kernels import QUERY_BLOCK_SIZE

FORCED_TYPES = {"gpu-float16": mx.float16, "gpu-bfloat16": mx.bfloat16}
_SMALL_BASE = 50_000_000  # weights up to which float32 costs little and rounding is avoided
_STOCK_TILE = 1024  # queries of a tile in the gradient of MLX's attention on a GPU


@dataclass(frozen=True)
class Device:
    kind: Literal["cpu", "metal", "cuda"]
    own_kernels: bool  # mondrian/model/cpu's in place of MLX's
    num_streams: int  # that share the rows of a batch
    query_block: int  # queries whose attention scores exist at the same time; 0 for all
    keeps_scores: bool  # whether each layer keeps its attention scores for the gradient
    float_type: Any = None  # of weights and activations; None for the type that a base is stored in

    @property
    def is_gpu(self) -> bool:
        return self.kind != "cpu"

    def for_base(self, num_weights: int) -> "Device":
        """Return the device with the type for a base of this size: a small one is in float32."""
        if self.float_type is None and num_weights <= _SMALL_BASE:
            return replace(self, float_type=mx.float32)
        return self

    @property
    def float_bytes(self) -> int:
        return 2 if self.float_type is None else int(self.float_type.size)


CPU = Device("cpu", True, 2, QUERY_BLOCK_SIZE, True, mx.float32)
METAL = Device("metal", False, 1, _STOCK_TILE, False)
CUDA = Device("cuda", False, 1, _STOCK_TILE, False)
FORCED_GPU = Device("cpu", False, 1, 0, True)


def detect_device() -> Device:
    forced = os.environ.get("MONDRIAN_DEVICE", "")
    if forced:
        if forced not in FORCED_TYPES:
            raise ValueError(f"MONDRIAN_DEVICE is {forced!r}; it may be {', '.join(FORCED_TYPES)}")
        mx.set_default_device(mx.Device(mx.DeviceType.cpu))
        return replace(FORCED_GPU, float_type=FORCED_TYPES[forced])
    if mx.default_device().type != mx.DeviceType.gpu:
        return CPU
    return METAL if mx.metal.is_available() else CUDA


DEVICE = detect_device()
