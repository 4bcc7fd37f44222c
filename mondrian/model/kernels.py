"""Attention, softmax, SwiGLU, GELU, cross-entropy: MLX's kernels on a GPU, model/cpu's on a CPU.

model/cpu computes exp(x) as 2 ** (x * EXP_SCALE); on a GPU EXP_SCALE is 1 and the base is e.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.cpu import attention as cpu_attention
from mondrian.model.cpu import kernels as cpu
from mondrian.model.cpu.attention import Past
from mondrian.model.device import DEVICE

EXP_SCALE = cpu.LOG2_E if DEVICE.own_kernels else 1.0
MASK_VALUE = cpu_attention.MASK_VALUE
Span = tuple[int, int]  # first index, end


@dataclass(frozen=True)
class AttentionSpan:
    """Queries of a packed sequence and the keys that they attend to, aligned at their ends."""

    queries: Span
    keys: tuple[Span, ...]


Mask = Literal["causal"] | Sequence[AttentionSpan] | None


power: Any = cpu.power_of_two if DEVICE.own_kernels else mx.exp  # x -> e ** (x / EXP_SCALE)
softmax: Any = (
    cpu.softmax if DEVICE.own_kernels else partial(mx.softmax, axis=-1)
)  # over the last axis
gelu: Any = cpu.gelu if DEVICE.own_kernels else nn.gelu_approx  # tanh form (arXiv:1606.08415)
# logits (..., vocabulary), targets (...) -> (...)
cross_entropy: Any = cpu.cross_entropy if DEVICE.own_kernels else nn.losses.cross_entropy


def swiglu(gate: mx.array, x: mx.array) -> Any:
    """Return silu(gate) * x. The gradient keeps gate and x only; MLX's would keep four arrays."""
    return cpu.swiglu(gate, x) if DEVICE.own_kernels else gpu_swiglu(gate, x)


@mx.custom_function
def gpu_swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return nn.silu(gate) * x


@gpu_swiglu.vjp
def _gpu_swiglu_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
    differentiate: Any = _differentiate_swiglu  # mx.compile's type has no arguments
    return differentiate(*primals, cotangent)


@partial(mx.compile, shapeless=True)
def _differentiate_swiglu(
    gate: mx.array, x: mx.array, cotangent: mx.array
) -> tuple[mx.array, mx.array]:
    """Return the gradients of both, computed in float32."""
    dtype = gate.dtype
    gate, x, cotangent = (a.astype(mx.float32) for a in (gate, x, cotangent))
    sigmoid = mx.sigmoid(gate)
    silu = gate * sigmoid
    d_gate = cotangent * x * (sigmoid + silu * (1 - sigmoid))
    return d_gate.astype(dtype), (cotangent * silu).astype(dtype)


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Mask) -> mx.array:
    """Return grouped-query attention.

    q     (batch, heads, queries, width)
    k, v  (batch, kv heads, keys, width)
    mask  "causal" aligns the last query with the last key; None attends to every key; spans are
          those of one packed sequence (batch 1) in the order of their queries, each causal
    """
    if mask is None or isinstance(mask, str):
        return _attend(q, k, v, scale, mask)
    outputs = []
    for span in mask:
        first, end = span.queries
        keys, values = (_join([x[:, :, a:b] for a, b in span.keys]) for x in (k, v))
        outputs.append(_attend(q[:, :, first:end], keys, values, scale, "causal"))
    return _join(outputs)


def _join(pieces: list[mx.array]) -> mx.array:
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _attend(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Literal["causal"] | None
) -> mx.array:
    if DEVICE.own_kernels:
        return cpu_attention.attention(q, k, v, scale, mask)
    if mask == "causal":
        return stock_causal_attention(q, k, v, scale, DEVICE.query_multiple)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)


def attend_cached(q: mx.array, past: Past, scale: float) -> mx.array:
    """Return grouped-query attention (batch, heads, queries, width) of q, of the same shape.

    A row has few queries, and there is no gradient.
    """
    if DEVICE.own_kernels:
        return cpu_attention.attend_cached(q, past, scale)
    (k, v), mask, _ = past
    sdpa_mask = None if mask is None else mask[:, None].astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=sdpa_mask)


def stock_causal_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, query_multiple: int
) -> mx.array:
    """Return MLX's causal attention, padded at the end to a multiple of queries.

    The mask hides the padding from all other queries, and its own outputs are dropped.
    """
    num_queries = q.shape[2]
    if padding := -num_queries % query_multiple:
        q, k, v = (mx.pad(x, [(0, 0), (0, 0), (0, padding), (0, 0)]) for x in (q, k, v))
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")
    return out[:, :, :num_queries] if padding else out
