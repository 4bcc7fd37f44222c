"""Attention, softmax, SwiGLU, GELU, cross-entropy: MLX's kernels on a GPU, model/cpu's on a CPU.

model/cpu computes exp(x) as 2 ** (x * EXP_SCALE); on a GPU EXP_SCALE is 1 and the base is e.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import e, log2
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.cpu import kernels as cpu
from mondrian.model.device import DEVICE

EXP_SCALE = log2(e) if DEVICE.own_kernels else 1.0
MASK_VALUE = cpu.MASK_VALUE  # added to the score of a masked key
Span = tuple[int, int]  # first index, end


@dataclass(frozen=True)
class AttentionSpan:
    """Queries of a packed sequence and the keys that they attend to, aligned at their ends."""

    queries: Span
    keys: tuple[Span, ...]


Mask = Literal["causal"] | Sequence[AttentionSpan] | mx.array | None


power: Any = cpu.power_of_two if DEVICE.own_kernels else mx.exp  # x -> e ** (x / EXP_SCALE)
softmax: Any = (
    cpu.softmax if DEVICE.own_kernels else partial(mx.softmax, axis=-1)
)  # over the last axis
gelu: Any = cpu.gelu if DEVICE.own_kernels else nn.gelu_approx  # tanh form (arXiv:1606.08415)
# logits (..., vocabulary), targets (...) -> (...)
cross_entropy: Any = cpu.cross_entropy if DEVICE.own_kernels else nn.losses.cross_entropy


def swiglu(gate: mx.array, x: mx.array) -> Any:
    return cpu.swiglu(gate, x) if DEVICE.own_kernels else nn.silu(gate) * x


def attention(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Mask) -> mx.array:
    """Return grouped-query attention.

    q     (batch, heads, queries, width)
    k, v  (batch, kv heads, keys, width)
    mask  "causal" aligns the last query with the last key; None attends to every key; an array
          (batch, keys) is added to the scores of a single query; spans are those of one packed
          sequence (batch 1) in the order of their queries, each causal
    """
    if mask is None or isinstance(mask, str | mx.array):
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
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Literal["causal"] | mx.array | None
) -> mx.array:
    if DEVICE.own_kernels:
        return cpu.attention(q, k, v, scale, mask)
    sdpa_mask = mask[:, None, None].astype(q.dtype) if isinstance(mask, mx.array) else mask
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=sdpa_mask)
