"""What this machine has: how it computes, how fast, and how much memory is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import mlx.core as mx
import psutil

from mondrian.model.architecture import Device
from mondrian.model.cpu.kernels import QUERY_BLOCK_SIZE
from mondrian.model.device import ON_GPU
from mondrian.model.kernels import softmax
from mondrian.model.vlm import Vlm

_ROWS_OF_MLP = 3  # gate, up and their product
_ROWS_OF_LOGITS = 4  # float32 copies of a row of logits that exist at a time: masked, soft, summed

METAL = Device(float_bytes=2, query_block=0)
CPU = Device(float_bytes=4, query_block=QUERY_BLOCK_SIZE)


@dataclass(frozen=True)
class Throughput:
    """Measured: operations of a matrix product a second, and seconds an element of softmax."""

    flops_per_second: float
    softmax_seconds: float


def this_device() -> Device:
    """How MLX computes here."""
    return METAL if ON_GPU else CPU


def memory_budget() -> int:
    """Bytes that a run may take: of the GPU's working set, or of what is free."""
    if ON_GPU:
        return int(mx.device_info()["max_recommended_working_set_size"])
    return int(psutil.virtual_memory().available)


def available_memory() -> int:
    """The same beside what is already in use on a GPU."""
    return memory_budget() - (mx.get_active_memory() if ON_GPU else 0)


def measure_throughput() -> Throughput:
    """The better of a few tries each, in well under a second."""
    kind = mx.bfloat16 if ON_GPU else mx.float32
    a, b = mx.ones((1024, 1024), kind), mx.ones((1024, 1024), kind)
    scores = mx.random.normal((1024, 2048)).astype(kind)
    mx.eval(a, b, scores)
    product = _quickest(lambda: a @ b)
    softened = _quickest(lambda: softmax(scores))
    return Throughput(2 * 1024**3 / product, softened / scores.size)


def _quickest(make: Callable[[], Any]) -> float:
    times = []
    for _ in range(8):
        started = perf_counter()
        mx.eval(make())
        times.append(perf_counter() - started)
    return min(times)


def bytes_per_sequence(vlm: Vlm, tokens: int) -> int:
    """Keys and values of so many tokens in every layer, a layer's first pass, and logits of one."""
    text = vlm.model.config.text_config
    pairs = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    kv_bytes = pairs * this_device().float_bytes * tokens
    passing = _ROWS_OF_MLP * text.intermediate_size * this_device().float_bytes * tokens
    return int(kv_bytes + passing + 4 * _ROWS_OF_LOGITS * text.vocab_size)
