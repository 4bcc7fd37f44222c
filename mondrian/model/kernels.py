"""Softmax, attention, SwiGLU and the head's loss; quick on a CPU, stock kernels on Metal.

MLX's float32 exp on x86 works on one element at a time (12 to 16 ns, power 5 ns), so exp(x) is
computed as 2^(x log2 e), and attention skips the blocks that a causal mask would empty. Each
function has its own gradient, and each is tested equal to the plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log2, pi, sqrt
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

_GELU = -2 * sqrt(2 / pi)
_CUBIC = 0.044715 * _GELU
QUERY_BLOCK_SIZE = 192  # queries a block of attention: small wastes calls, large wastes masked work
ON_GPU = mx.default_device().type == mx.DeviceType.gpu
SMALL_ARRAY_SIZE = 4096  # elements up to which one slow kernel is quicker than several quick ones
MASK_VALUE = -1e9  # added to the score of a key that is not to be seen
EXP_SCALE = 1.0 if ON_GPU else log2(2.718281828459045)  # what a power of e is in the quick base
Span = tuple[int, int]  # from and up to


@dataclass(frozen=True)
class AttentionSpan:
    """Some queries of a packed sequence and the keys they see; the last ones are aligned."""

    queries: Span
    keys: tuple[Span, ...]


Mask = Literal["causal"] | Sequence[AttentionSpan] | mx.array | None


def exp(x: mx.array) -> mx.array:
    """e^x, through power where that is quicker."""
    return fast_power(x * EXP_SCALE)


def fast_power(x: mx.array) -> mx.array:
    """The device's quick base to the x: e^(x / UNIT)."""
    return mx.exp(x) if ON_GPU else mx.power(mx.array(2.0, x.dtype), x)


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
def _cpu_swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (1 + exp(-gate)) * x


@_cpu_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    gate, x = primals
    sigmoid = 1 / (1 + exp(-gate))
    silu = gate * sigmoid
    return cotangent * x * (sigmoid + silu * (1 - sigmoid)), cotangent * silu


def swiglu(gate: mx.array, x: mx.array) -> Any:
    """silu(gate) * x."""
    return nn.silu(gate) * x if ON_GPU or gate.size < SMALL_ARRAY_SIZE else _cpu_swiglu(gate, x)


def gelu(x: mx.array) -> mx.array:
    """GELU by its tanh form (Hendrycks & Gimpel, arXiv:1606.08415), x * sigmoid(2 u)."""
    if ON_GPU:
        return nn.gelu_approx(x)
    return x / (1 + exp(x * (_GELU + _CUBIC * x * x)))


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Mask) -> mx.array:
    """Grouped-query attention.

    q (batch, heads, queries, width); k and v (batch, kv heads, keys, width). A mask of "causal"
    aligns the last query with the last key; None attends to every key; an array (batch, keys) is
    added to the scores of a single query; parts are of one packed sequence (batch 1), in the order
    of their queries, each causal for itself.
    """
    if mask is None or isinstance(mask, str | mx.array):
        return _attend(q, k, v, scale, mask)
    out = []
    for part in mask:
        first, last = part.queries
        visible_kv = [_join([x[:, :, a:b] for a, b in part.keys]) for x in (k, v)]
        out.append(_attend(q[:, :, first:last], visible_kv[0], visible_kv[1], scale, "causal"))
    return _join(out)


def _join(pieces: list[mx.array]) -> mx.array:
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float,
    mask: Literal["causal"] | mx.array | None,
) -> mx.array:
    added: Any = mask if isinstance(mask, mx.array) else None
    if ON_GPU:
        mask = mask if added is None else added[:, None, None].astype(q.dtype)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, length, width = q.shape
    groups, total = k.shape[1], k.shape[2]
    if length == 1:  # its heads of a group as one matrix
        query_scores = (q * scale).reshape(batch, groups, -1, width) @ k.swapaxes(-1, -2)
        query_scores = query_scores if added is None else query_scores + added[:, None, None]
        shares: Any = (
            mx.softmax(query_scores, -1)
            if query_scores.size < SMALL_ARRAY_SIZE
            else softmax(query_scores)
        )
        return (shares @ v).reshape(q.shape)
    q = (q * scale).reshape(batch, groups, heads // groups, length, width)
    k, v = k[:, :, None], v[:, :, None]
    past = total - length
    out: list[mx.array] = []
    for start in range(0, length, QUERY_BLOCK_SIZE):
        stop = min(length, start + QUERY_BLOCK_SIZE)
        n_visible = past + stop if isinstance(mask, str) else total
        scores = q[:, :, :, start:stop] @ k[:, :, :, :n_visible].swapaxes(-1, -2)
        if mask is not None and stop - start > 1:
            scores = scores + _causal_mask(stop - start, n_visible)
        weights: Any = softmax(scores)
        out.append(weights @ v[:, :, :, :n_visible])
    return mx.concatenate(out, axis=3).reshape(batch, heads, length, width)


@lru_cache(64)
def _causal_mask(queries: int, keys: int) -> mx.array:
    """What hides later keys from the last queries, (queries, keys)."""
    hidden = np.triu(np.ones((queries, keys), np.float32), keys - queries + 1)
    return mx.array(MASK_VALUE * hidden)
