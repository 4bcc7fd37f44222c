"""Attention, softmax, SwiGLU, GELU and cross-entropy for a Linux CPU.

MLX's float32 exp on x86 handles one element at a time (12 to 16 ns, power 5 ns), so exp(x) is
computed as 2 ** (x * log2(e)). Attention skips the blocks that a causal mask would empty. Each
function has its own gradient, and each is tested equal to MLX's.
"""

from functools import lru_cache
from math import e, log2, pi, sqrt
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

QUERY_BLOCK_SIZE = 192  # queries per block of attention: small costs calls, large masked work
SMALL_ARRAY_SIZE = 4096  # elements up to which one slow kernel beats several fast ones
MASK_VALUE = -1e9
_GELU = -2 * sqrt(2 / pi)
_CUBIC = 0.044715 * _GELU


def power_of_two(x: mx.array) -> mx.array:
    return mx.power(mx.array(2.0, x.dtype), x)


def exp(x: mx.array) -> mx.array:
    return power_of_two(x * log2(e))


@mx.custom_function
def softmax(scores: mx.array) -> mx.array:
    powers = exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@softmax.vjp
def _softmax_vjp(_: Any, cotangent: mx.array, output: mx.array) -> mx.array:
    weighted = output * cotangent
    return weighted - output * weighted.sum(-1, keepdims=True)


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (1 + exp(-gate)) * x


@_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    sigmoid = 1 / (1 + exp(-gate))
    silu = gate * sigmoid
    return cotangent * x * (sigmoid + silu * (1 - sigmoid)), cotangent * silu


def swiglu(gate: mx.array, x: mx.array) -> Any:
    """Return silu(gate) * x."""
    return nn.silu(gate) * x if gate.size < SMALL_ARRAY_SIZE else _swiglu(gate, x)


def gelu(x: mx.array) -> mx.array:
    """Return GELU in its tanh form, as x * sigmoid(2 u)."""
    return x / (1 + exp(x * (_GELU + _CUBIC * x * x)))


@mx.custom_function
def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    highest = logits.max(-1, keepdims=True)
    total = exp(logits - highest).sum(-1, keepdims=True)
    at_target = mx.take_along_axis(logits, targets[..., None], axis=-1)
    return (mx.log(total) + highest - at_target)[..., 0]


@cross_entropy.vjp
def _cross_entropy_vjp(
    primals: Any, cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    indices = targets[..., None]
    at_target = mx.take_along_axis(logits, indices, axis=-1)
    probs = exp(logits - (output[..., None] + at_target))
    at_target = mx.take_along_axis(probs, indices, axis=-1)
    gradient = mx.put_along_axis(probs, indices, at_target - 1, axis=-1)
    return gradient * cotangent[..., None], mx.zeros_like(targets)


def attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Literal["causal"] | mx.array | None
) -> mx.array:
    """Return attention by blocks of queries; arguments as in mondrian.model.kernels."""
    batch, heads, length, width = q.shape
    kv_heads = k.shape[1]
    if length == 1:
        return _attend_one(q, k, v, scale, mask if isinstance(mask, mx.array) else None)
    q = (q * scale).reshape(batch, kv_heads, heads // kv_heads, length, width)
    k, v = k[:, :, None], v[:, :, None]
    past = k.shape[3] - length
    outputs: list[mx.array] = []
    for start in range(0, length, QUERY_BLOCK_SIZE):
        stop = min(length, start + QUERY_BLOCK_SIZE)
        visible = past + stop if isinstance(mask, str) else past + length
        scores = q[:, :, :, start:stop] @ k[:, :, :, :visible].swapaxes(-1, -2)
        if mask is not None and stop - start > 1:
            scores = scores + _causal_mask(stop - start, visible)
        weights: Any = softmax(scores)
        outputs.append(weights @ v[:, :, :, :visible])
    return mx.concatenate(outputs, axis=3).reshape(batch, heads, length, width)


def _attend_one(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None
) -> mx.array:
    """Return the attention of a single query: the heads of a group form one matrix."""
    batch, kv_heads, _, width = k.shape
    scores = (q * scale).reshape(batch, kv_heads, -1, width) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = scores + mask[:, None, None]
    weights: Any = mx.softmax(scores, -1) if scores.size < SMALL_ARRAY_SIZE else softmax(scores)
    return (weights @ v).reshape(q.shape)


@lru_cache(64)
def _causal_mask(queries: int, keys: int) -> mx.array:
    """Return (queries, keys) values that mask later keys, the ends aligned."""
    hidden = np.triu(np.ones((queries, keys), np.float32), keys - queries + 1)
    return mx.array(MASK_VALUE * hidden)
