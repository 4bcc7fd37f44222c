"""Softmax, SwiGLU, GELU and cross-entropy for a Linux CPU; model/cpu/attention.py has attention.

MLX's float32 exp on x86 handles one element at a time (12 to 16 ns, power 5 ns), so exp(x) is
computed as 2 ** (x * log2(e)). Each function is tested equal to MLX's, with its gradient.
"""

from math import e, log2, pi, sqrt
from typing import Any

import mlx.core as mx
import mlx.nn as nn

LOG2_E = log2(e)
SMALL_ARRAY_SIZE = 4096  # elements up to which one slow kernel beats several fast ones
_GELU = -2 * sqrt(2 / pi)
_CUBIC = 0.044715 * _GELU


def power_of_two(x: mx.array) -> mx.array:
    return mx.power(mx.array(2.0, x.dtype), x)


def exp(x: mx.array) -> mx.array:
    return power_of_two(x * LOG2_E)


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
