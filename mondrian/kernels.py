"""Softmax, attention and SwiGLU that are quick on a CPU; on Metal the stock kernels serve.

MLX's float32 exp on x86 works on one element at a time (15.6 ns, power 6.0 ns), so exp(x) is
computed as 2^(x log2 e), and attention skips the blocks that a causal mask would empty. Each
function has its own gradient, and each is tested equal to the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log2
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn
import mlx_vlm.models.mlp as mlp_module
import mlx_vlm.models.qwen3_vl.language as language_module

_LOG2_E = log2(2.718281828459045)
_BLOCK = 192  # queries a block of attention: small wastes calls, large wastes masked work


def exp(x: mx.array) -> mx.array:
    """e^x through power."""
    return mx.power(mx.array(2.0, x.dtype), x * _LOG2_E)


@mx.custom_function
def softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis."""
    powers = exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@softmax.vjp
def _softmax_vjp(_: Any, cotangent: mx.array, output: mx.array) -> mx.array:
    weighted = output * cotangent
    return weighted - output * weighted.sum(-1, keepdims=True)


@mx.custom_function
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x."""
    return gate / (1 + exp(-gate)) * x


@swiglu.vjp
def _swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    sigmoid = 1 / (1 + exp(-gate))
    silu = gate * sigmoid
    return cotangent * x * (sigmoid + silu * (1 - sigmoid)), cotangent * silu


@mx.custom_function
def _cpu_cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    highest = logits.max(-1, keepdims=True)
    total = exp(logits - highest).sum(-1, keepdims=True)
    taken = mx.take_along_axis(logits, targets[..., None], axis=-1)
    return (mx.log(total) + highest - taken)[..., 0]


@_cpu_cross_entropy.vjp
def _cpu_cross_entropy_vjp(
    primals: Any, cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    places = targets[..., None]
    taken = mx.take_along_axis(logits, places, axis=-1)
    share = exp(logits - (output[..., None] + taken))  # softmax
    at_target = mx.take_along_axis(share, places, axis=-1)
    share = mx.put_along_axis(share, places, at_target - 1, axis=-1)
    return share * cotangent[..., None], mx.zeros_like(targets)


def cross_entropy(logits: mx.array, targets: mx.array) -> Any:
    """Cross-entropy at each position; logits (..., vocabulary), targets (...)."""
    if mx.default_device().type == mx.DeviceType.gpu:
        return nn.losses.cross_entropy(logits, targets)
    return _cpu_cross_entropy(logits, targets)


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Grouped-query attention; the signature of mlx-vlm's scaled_dot_product_attention.

    queries (batch, heads, length, width); keys and values (batch, kv heads, past + length, width).
    A mask of "causal" aligns the last query with the last key; None attends to every key.
    """
    assert mask in ("causal", None), "forward.py gives no other mask"
    batch, heads, length, width = queries.shape
    groups, total = keys.shape[1], keys.shape[2]
    q = (queries * scale).reshape(batch, groups, heads // groups, length, width)
    k, v = keys[:, :, None], values[:, :, None]
    past = total - length
    out: list[mx.array] = []
    for start in range(0, length, _BLOCK):
        stop = min(length, start + _BLOCK)
        seen = past + stop if mask == "causal" else total
        scores = q[:, :, :, start:stop] @ k[:, :, :, :seen].swapaxes(-1, -2)
        if mask == "causal" and stop - start > 1:
            rows, columns = mx.arange(past + start, past + stop), mx.arange(seen)
            scores = scores + mx.where(rows[:, None] >= columns[None], 0.0, -1e9)
        weights: Any = softmax(scores)
        out.append(weights @ v[:, :, :, :seen])
    return mx.concatenate(out, axis=3).reshape(batch, heads, length, width)


@contextmanager
def cpu_kernels() -> Iterator[None]:
    """Use these in mlx-vlm's Qwen3-VL for as long as the context lasts; on a GPU change nothing."""
    if mx.default_device().type == mx.DeviceType.gpu:
        yield
        return
    stock = language_module.scaled_dot_product_attention, mlp_module.swiglu
    language_module.scaled_dot_product_attention, mlp_module.swiglu = attention, swiglu
    try:
        yield
    finally:
        language_module.scaled_dot_product_attention, mlp_module.swiglu = stock
