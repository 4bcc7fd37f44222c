"""Find packed layers with products that MLX has no CUDA kernel for, and unpack them.

MLX's CUDA kernels take some shapes only (`[quantized_matmul] No implementation for problem shape`).
Each distinct product is run once, with few and with many rows, as it is and as in its gradient.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mondrian.model.cpu.packed import multiply_packed
from mondrian.model.projections import dequantize

_ROWS = (1, 16, 128)  # decoding, a batch of it, a prompt: each has kernels of its own
_NO_KERNEL = re.compile(r"quantized_?matmul|\bQMM\b", re.IGNORECASE)
RunProduct = Callable[[Any, mx.array, bool], None]  # layer, x, whether the weight is transposed


@dataclass(frozen=True)
class PackedShape:
    outputs: int
    inputs: int
    bits: int
    group_size: int
    mode: str

    @classmethod
    def of(cls, layer: Any) -> "PackedShape":
        outputs, width = layer.weight.shape
        inputs = width * 32 // layer.bits
        return cls(outputs, inputs, layer.bits, layer.group_size, layer.mode)

    def __str__(self) -> str:
        return f"{self.outputs} x {self.inputs} in {self.bits} bits, groups of {self.group_size}"


def run_product(layer: Any, x: mx.array, transpose: bool) -> None:
    """Compute x W.T (transpose) or x W with a packed weight; MLX raises if it has no kernel."""
    mx.eval(multiply_packed(x, layer, transpose))


def unpack_refused_layers(
    model: Any, float_type: Any, run: RunProduct = run_product
) -> dict[PackedShape, int]:
    """Replace packed layers that cannot be computed; return how many of each shape, and print it.

    run  computes a product, or raises MLX's error
    """
    accepted: dict[PackedShape, bool] = {}
    unpacked: dict[PackedShape, int] = {}
    for parent, name, layer in list(_iter_packed_layers(model)):
        shape = PackedShape.of(layer)
        if shape not in accepted:
            accepted[shape] = _is_accepted(layer, shape, float_type, run)
        if not accepted[shape]:
            parent[name] = unpack(layer, float_type)
            unpacked[shape] = unpacked.get(shape, 0) + 1
    for shape, count in unpacked.items():
        num_bytes = count * shape.outputs * shape.inputs * float_type.size
        sys.stderr.write(
            f"note: MLX has no kernel here for packed products of {shape}; unpacked {count} "
            f"layers, {num_bytes / 1e9:.2f} GB\n"
        )
    return unpacked


def _iter_packed_layers(model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Yield parent, name or index, and layer."""
    for module in model.modules():
        for name, child in module.children().items():
            items = enumerate(child) if isinstance(child, list) else [(name, child)]
            parent = child if isinstance(child, list) else module
            for key, layer in items:
                if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
                    yield parent, key, layer


def _is_accepted(layer: Any, shape: PackedShape, float_type: Any, run: RunProduct) -> bool:
    try:
        for rows in _ROWS:
            run(layer, mx.zeros((rows, shape.inputs), float_type), True)
            run(layer, mx.zeros((rows, shape.outputs), float_type), False)
    except (RuntimeError, ValueError) as error:  # std::runtime_error, std::invalid_argument
        if not _NO_KERNEL.search(str(error)):
            raise
        return False
    return True


def unpack(layer: Any, float_type: Any) -> nn.Module:
    """Return the plain layer with the same weights."""
    weight = dequantize(layer).astype(float_type)
    if isinstance(layer, nn.QuantizedEmbedding):
        plain: Any = nn.Embedding(1, 1)
    else:
        plain = nn.Linear(1, 1, bias="bias" in layer)
        if "bias" in layer:
            plain.bias = layer.bias.astype(float_type)
    plain.weight = weight
    mx.eval(plain.parameters())
    plain.freeze()
    return plain
