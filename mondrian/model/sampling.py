"""The next token of each row: the likeliest one, or one drawn by the row's own dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.model.constrained import TokenBitmask
from mondrian.model.kernels import softmax

_BELOW_ONE = 1 - 1e-6  # rounding must not carry a draw past the last token
_SHIFTS = mx.array(np.arange(32, dtype=np.uint32))  # evaluated: threads share it


def mask_logits(logits: mx.array, masks: Sequence[TokenBitmask]) -> mx.array:
    """Logits (rows, vocabulary), minus infinity where a row's mask has no bit."""
    words = mx.array(np.stack(masks).view(np.uint32))
    bits = ((words[:, :, None] >> _SHIFTS) & 1).reshape(len(masks), -1)[:, : logits.shape[1]]
    return mx.where(bits.astype(mx.bool_), logits, mx.array(-mx.inf, logits.dtype))


def sample(logits: mx.array, temperature: float, uniforms: Sequence[float]) -> mx.array:
    """A token a row, by softmax(logits / temperature) and a throw in 0 to 1 each; greedy at 0."""
    if not temperature:
        return mx.argmax(logits, axis=-1)
    share: Any = softmax(logits.astype(mx.float32) / temperature)
    upto = mx.cumsum(share, axis=-1)
    thresholds = (
        mx.array(np.minimum(uniforms, _BELOW_ONE).astype(np.float32))[:, None] * upto[:, -1:]
    )
    return mx.argmax((share > 0) & (upto > thresholds), axis=-1)
