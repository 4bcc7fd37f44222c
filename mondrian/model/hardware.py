"""Device, throughput and free memory of this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from timeit import repeat, timeit
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import psutil

from mondrian.model.cpu.packed import unpack_in_products
from mondrian.model.device import DEVICE
from mondrian.model.kernels import softmax
from mondrian.model.vlm import Vlm

_ROWS = 1024  # of the products that are timed: as many as a packed batch has tokens, roughly
_MEASUREMENT_SECONDS = 0.5  # for the tries of one operation
_MLP_COPIES = 3  # gate, up and their product
_LOGITS_COPIES = 4  # float32 copies of a row of logits at the same time: masked, softmax, cumulated


@dataclass(frozen=True)
class Throughput:
    flops_per_second: float  # of a product of floats, measured
    packed_flops_per_second: float  # of many rows with the base's weights; packed ones are slower
    softmax_seconds: float  # per element


def memory_budget() -> int:
    """Return the bytes that a run may take: what the GPU recommends or has, or the free RAM."""
    if not DEVICE.is_gpu:
        return int(psutil.virtual_memory().available)
    info = mx.device_info()  # Metal recommends a working set, CUDA names the memory of the card
    return int(info.get("max_recommended_working_set_size") or info["total_memory"])


def available_memory() -> int:
    """Return the memory budget minus what MLX already uses on a GPU."""
    return memory_budget() - (mx.get_active_memory() if DEVICE.is_gpu else 0)


def measure_throughput(bits: int = 0) -> Throughput:
    """Time products and a softmax: the fastest of some tries, in about a second.

    bits  of the base's packed weights; 0 if they are not packed
    """
    dtype = DEVICE.float_type or mx.bfloat16
    x, weights = (mx.ones((_ROWS, _ROWS), dtype) for _ in range(2))
    scores = mx.random.normal((_ROWS, 2 * _ROWS)).astype(dtype)
    mx.eval(x, weights, scores)
    rate = packed_rate = 2 * _ROWS**3 / _time(lambda: x @ weights)
    if bits:
        layer = _packed_layer(bits, dtype)
        packed_rate = 2 * _ROWS**3 / _time(lambda: layer(x))
    return Throughput(rate, packed_rate, _time(lambda: softmax(scores)) / scores.size)


def _packed_layer(bits: int, dtype: Any) -> Any:
    """Return a linear layer that multiplies like those of a packed base on this device."""
    linear = nn.Linear(_ROWS, _ROWS, bias=False)
    linear.weight = linear.weight.astype(dtype)
    layers = nn.Sequential(linear.to_quantized(64, bits))
    if DEVICE.own_kernels:
        unpack_in_products(layers)
    mx.eval(layers.parameters())
    return layers


def _time(compute: Callable[[], Any]) -> float:
    """Return the seconds of the fastest try: up to eight, until half a second is over."""
    seconds = timeit(lambda: mx.eval(compute()), number=1)
    tries = min(7, int(_MEASUREMENT_SECONDS / seconds))
    return min([seconds, *repeat(lambda: mx.eval(compute()), number=1, repeat=tries)])


def bytes_per_sequence(vlm: Vlm, tokens: int) -> int:
    """Return the memory of a sequence: KV cache, a layer's prefill, and one row of logits.

    A prefix that sequences share on a CPU is counted for each of them.
    """
    text, float_bytes = vlm.model.config.text_config, vlm.float_type.size
    kv_width = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    mlp_width = _MLP_COPIES * text.intermediate_size
    return int((kv_width + mlp_width) * float_bytes * tokens + 4 * _LOGITS_COPIES * text.vocab_size)
