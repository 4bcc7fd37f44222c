"""Projections with the same input, computed together: q, k and v; o; gate and up; down.

The low-rank updates of one adapter share one product of the input with their joined A.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn

QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
GROUPS = (QKV, ("o_proj",), GATE_UP, ("down_proj",))


@dataclass(frozen=True)
class LowRankUpdate:
    """What an adapter adds to one projection: scale * (x A) B; with DoRA, scaled outputs.

    index  of the projection among those with the same input
    """

    index: int
    lora_b: mx.array  # (rank, out)
    scale: float
    output_scale: mx.array | None = None  # (out,); DoRA's magnitude over the norm of the weights
    output_shift: mx.array | None = None  # (out,); keeps the bias as it is

    def apply(self, out: mx.array, low: mx.array) -> mx.array:
        """Return the projection's output `out` with the update; `low` is x A."""
        out = mx.addmm(out, low, self.lora_b, self.scale)
        if self.output_scale is not None:
            out = out * self.output_scale
        return out if self.output_shift is None else out + self.output_shift


@dataclass(frozen=True)
class LowRank:
    """The low-rank updates of one adapter for projections with the same input, of equal rank."""

    lora_a: mx.array  # (in, ranks of all updates)
    updates: tuple[LowRankUpdate, ...]

    @property
    def arrays(self) -> list[Any]:
        fields = [(u.lora_b, u.output_scale, u.output_shift) for u in self.updates]
        return [self.lora_a, *(array for row in fields for array in row if array is not None)]

    def add(self, outputs: list[mx.array], x: mx.array, mask: mx.array | None = None) -> None:
        """Update the projections' outputs in the list; `mask` (tokens, 1) is 0 at other tokens."""
        low = x @ self.lora_a
        if mask is not None:
            low = low * mask
        count = len(self.updates)
        parts: Any = mx.split(low, count, axis=-1) if count > 1 else [low]
        self._apply_updates(outputs, parts)

    def _apply_updates(self, outputs: list[mx.array], parts: Sequence[mx.array]) -> None:
        for update, part in zip(self.updates, parts, strict=True):
            outputs[update.index] = update.apply(outputs[update.index], part)


@dataclass(frozen=True)
class DropoutLowRank(LowRank):
    """Low-rank updates in training; each drops inputs of its own.

    lora_a  (updates, in, rank), each divided by keep_prob
    key     of the random bits, so that a recomputed layer drops the same inputs
    """

    key: mx.array
    keep_prob: float

    def add(self, outputs: list[mx.array], x: mx.array, mask: mx.array | None = None) -> None:
        shape = (len(self.updates), *x.shape)
        inputs: Any = _drop(x, draw_mask(self.key, self.keep_prob, shape))
        low = inputs @ self.lora_a
        self._apply_updates(outputs, [low[i] for i in range(len(self.updates))])


@mx.custom_function
def _drop(x: mx.array, mask: mx.array) -> mx.array:
    """Return the inputs (tokens, in) under each mask (updates, tokens, in)."""
    return x * mask.astype(x.dtype)


@_drop.vjp
def _drop_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    mask = primals[1]  # a byte for each input; MLX's own gradient would keep a float
    return (cotangent * mask.astype(cotangent.dtype)).sum(0), mx.zeros_like(mask)


def draw_mask(key: mx.array, keep_prob: float, shape: tuple[int, ...]) -> mx.array:
    """Return booleans, each true with a probability of keep_prob, which `round_keep_prob` gave.

    From 16 random bits each: mx.random.bernoulli takes 32, makes floats of them and is three times
    slower. `split` is the only function of MLX that returns the random bits themselves.
    """
    size = prod(shape)
    bits = mx.random.split(key, -(-size // 4)).view(mx.uint16).reshape(-1)[:size]
    return bits.reshape(shape) < mx.array(round(keep_prob * 2**16), mx.uint16)


def round_keep_prob(keep_prob: float) -> float:
    """Return the nearest probability that 16 random bits can have, and not 0."""
    return max(1, round(keep_prob * 2**16)) / 2**16


class Projections:
    """Linear layers with the same input, and what one adapter adds to them."""

    def __init__(self, linears: Sequence[Any], low_rank: LowRank | None = None) -> None:
        self.linears, self.low_rank = linears, low_rank

    def __call__(self, x: mx.array) -> list[mx.array]:
        """Return the output of each projection."""
        outputs = [linear(x) for linear in self.linears]
        if self.low_rank is not None:
            self.low_rank.add(outputs, x)
        return outputs

    @property
    def arrays(self) -> list[Any]:
        """Arrays that were computed from an adapter's weights."""
        return [] if self.low_rank is None else self.low_rank.arrays


class AdaptedLinear(nn.Module):
    """A linear layer of the base with what adapters add to it."""

    linear: Any

    def join(self, linears: Sequence[Any], dtype: Any) -> Projections:
        """Return the projections of `linears`, of which this is the first adapted one."""
        raise NotImplementedError


def join(linears: Sequence[Any], dtype: Any) -> Projections:
    """Return linear layers with the same input as one, their adapters' weights cast to `dtype`."""
    adapted = next((linear for linear in linears if isinstance(linear, AdaptedLinear)), None)
    return adapted.join(linears, dtype) if adapted is not None else Projections(linears)


def dequantize(linear: Any) -> mx.array:
    """Return the weight (out, in) of a linear layer, packed or not, in float32."""
    if not hasattr(linear, "bits"):
        return linear.weight.astype(mx.float32)
    packed = (linear.weight, linear.scales, linear.get("biases"))
    settings = (linear.group_size, linear.bits, linear.mode)
    return mx.dequantize(*packed, *settings).astype(mx.float32)
