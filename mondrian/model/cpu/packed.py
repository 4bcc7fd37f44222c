"""Products with packed weights on a Linux CPU: unpack some rows, multiply with OpenBLAS, repeat.

MLX's own packed product computes 1 to 3 GFLOP/s on a CPU, and mx.dequantize takes twice as long as
the shifts here. Rows are unpacked after the product of the rows before, and again for the gradient,
so that few are in memory at a time (up to ten times MAX_UNPACKED, because MLX allocates the arrays
of the next products while it computes) and none are kept.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

MIN_ROWS = 4  # rows of x from which unpacking pays: it takes as long as MLX's product of four
MAX_UNPACKED = 2**22  # weights that a product unpacks at a time: fewer make products slower
_SHIFTS = {bits: mx.array(list(range(0, 32, bits)), mx.uint32) for bits in (2, 4, 8)}
_MASKS = {bits: mx.array(2**bits - 1, mx.uint32) for bits in _SHIFTS}


class UnpackingLinear(nn.QuantizedLinear):
    def __call__(self, x: mx.array) -> Any:
        out = multiply(x, self)
        return out + self.bias if "bias" in self else out


class UnpackingEmbedding(nn.QuantizedEmbedding):
    def as_linear(self, x: mx.array) -> Any:
        return multiply(x, self)


def unpack_in_products(model: nn.Module) -> None:
    """Let all packed layers of a model multiply with this module."""
    replacements: dict[type, type] = {
        nn.QuantizedLinear: UnpackingLinear,
        nn.QuantizedEmbedding: UnpackingEmbedding,
    }
    for module in model.modules():
        module.__class__ = replacements.get(type(module), type(module))


def multiply(x: mx.array, layer: Any) -> Any:
    """Return x @ W.T for a packed layer with weights W (out, in)."""
    if _num_rows(x) < MIN_ROWS:
        return multiply_packed(x, layer, True)

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return _multiply_unpacked(x, layer)

    @product.vjp
    def _(_: Any, cotangent: mx.array, __: Any) -> mx.array:
        return multiply_transposed(cotangent, layer)

    return product(x)


def multiply_transposed(x: mx.array, layer: Any) -> mx.array:
    """Return x @ W, which is also the gradient of `multiply`; it has no gradient itself."""
    if _num_rows(x) < MIN_ROWS:
        return multiply_packed(x, layer, False)
    out = mx.array(0.0, x.dtype)
    for i, rows in enumerate(_split_rows(layer)):
        weight = unpack_rows(layer, rows, [out if i else x])
        out = mx.addmm(out, x[..., rows], weight) if i else x[..., rows] @ weight
    return out


def _multiply_unpacked(x: mx.array, layer: Any) -> mx.array:
    outputs: list[mx.array] = []
    for rows in _split_rows(layer):
        outputs.append(x @ unpack_rows(layer, rows, outputs[-1:] or [x]).T)
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=-1)


def multiply_packed(x: mx.array, layer: Any, transpose: bool) -> mx.array:
    """Return x @ W.T (transpose) or x @ W by MLX's own product of packed weights."""
    weights = (layer.weight, layer.scales, layer.get("biases"), transpose)
    return mx.quantized_matmul(x, *weights, layer.group_size, layer.bits, layer.mode)


def _num_rows(x: mx.array) -> int:
    return x.size // x.shape[-1]


def _split_rows(layer: Any) -> Iterator[slice]:
    out, words = layer.weight.shape
    count = max(1, MAX_UNPACKED // (words * 32 // layer.bits))
    yield from (slice(first, min(out, first + count)) for first in range(0, out, count))


def unpack_rows(layer: Any, rows: slice, previous: list[mx.array]) -> mx.array:
    """Return rows of the weights, computed after `previous`; equal to mx.dequantize."""
    words, scales = mx.depends([layer.weight[rows]], previous)[0], layer.scales[rows]
    bits, group_size, biases = layer.bits, layer.group_size, layer.get("biases")
    if layer.mode != "affine" or bits not in _SHIFTS:
        biases = None if biases is None else biases[rows]
        return mx.dequantize(words, scales, biases, group_size, bits, layer.mode)
    values = (words[:, :, None] >> _SHIFTS[bits]) & _MASKS[bits]
    values = values.reshape(*scales.shape, group_size).astype(scales.dtype)
    return (values * scales[:, :, None] + biases[rows][:, :, None]).reshape(len(words), -1)
