"""Attention, softmax, SwiGLU, GELU, cross-entropy: MLX's kernels on a GPU, model/cpu's on a CPU.

On a CPU exp(x) is computed as 2 ** (x * EXP_SCALE); on a GPU EXP_SCALE is 1 and the base is e.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import e, log2
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.cpu import kernels as cpu

ON_GPU = mx.default_device().type == mx.DeviceType.gpu
EXP_SCALE = 1.0 if ON_GPU else log2(e)
MASK_VALUE = cpu.MASK_VALUE  # added to the score of a masked key
Span = tuple[int, int]  # first index, end


@dataclass(frozen=True)
class AttentionSpan:
    """Queries of a packed sequence and the keys that they attend to, aligned at their ends."""

    queries: Span
    keys: tuple[Span, ...]


Mask = Literal["causal"] | Sequence[AttentionSpan] | mx.array | None


power: Any = mx.exp if ON_GPU else cpu.power_of_two  # x -> e ** (x / EXP_SCALE)
softmax: Any = partial(mx.softmax, axis=-1) if ON_GPU else cpu.softmax  # over the last axis
gelu: Any = nn.gelu_approx if ON_GPU else cpu.gelu  # tanh form (arXiv:1606.08415)
# logits (..., vocabulary), targets (...) -> (...)
cross_entropy: Any = nn.losses.cross_entropy if ON_GPU else cpu.cross_entropy


def swiglu(gate: mx.array, x: mx.array) -> Any:
    return nn.silu(gate) * x if ON_GPU else cpu.swiglu(gate, x)


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
    if not ON_GPU:
        return cpu.attention(q, k, v, scale, mask)
    sdpa_mask = mask[:, None, None].astype(q.dtype) if isinstance(mask, mx.array) else mask
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=sdpa_mask)
