"""Device, throughput and free memory of this machine."""

from dataclasses import dataclass
from timeit import repeat

import mlx.core as mx
import psutil

from mondrian.model.device import DEVICE
from mondrian.model.kernels import softmax
from mondrian.model.vlm import Vlm

_MLP_COPIES = 3  # gate, up and their product
_LOGITS_COPIES = 4  # float32 copies of a row of logits at the same time: masked, softmax, cumulated


@dataclass(frozen=True)
class Throughput:
    flops_per_second: float  # of a matrix product, measured
    softmax_seconds: float  # per element


def memory_budget() -> int:
    """Return the bytes that a run may take: the GPU's working set, or the free RAM."""
    if DEVICE.is_gpu:
        return int(mx.device_info()["max_recommended_working_set_size"])
    return int(psutil.virtual_memory().available)


def available_memory() -> int:
    """Return the memory budget minus what MLX already uses on a GPU."""
    return memory_budget() - (mx.get_active_memory() if DEVICE.is_gpu else 0)


def measure_throughput() -> Throughput:
    """Time a matrix product and a softmax: the fastest of eight tries, in under a second."""
    dtype = DEVICE.float_type or mx.bfloat16
    a, b = mx.ones((1024, 1024), dtype), mx.ones((1024, 1024), dtype)
    scores = mx.random.normal((1024, 2048)).astype(dtype)
    mx.eval(a, b, scores)
    product_seconds = min(repeat(lambda: mx.eval(a @ b), number=1, repeat=8))
    softmax_seconds = min(repeat(lambda: mx.eval(softmax(scores)), number=1, repeat=8))
    return Throughput(2 * 1024**3 / product_seconds, softmax_seconds / scores.size)


def bytes_per_sequence(vlm: Vlm, tokens: int) -> int:
    """Return the memory of a sequence: KV cache, a layer's prefill, and one row of logits."""
    text, float_bytes = vlm.model.config.text_config, vlm.float_type.size
    kv_width = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    mlp_width = _MLP_COPIES * text.intermediate_size
    return int((kv_width + mlp_width) * float_bytes * tokens + 4 * _LOGITS_COPIES * text.vocab_size)
