from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mondrian.model.cpu import packed
from mondrian.model.lora import LoraConfig, LoraLinear

OUT, INNER = 96, 128


def make_layer(bits: int = 4, mode: str = "affine", bias: bool = True) -> nn.QuantizedLinear:
    mx.random.seed(1)
    layer = nn.Linear(INNER, OUT, bias=bias)
    layer.bias = mx.random.normal((OUT,)) if bias else None
    group = {"affine": 64, "mxfp4": 32}[mode]
    return nn.QuantizedLinear.from_linear(layer, group, bits, mode)


def unpack(layer: nn.Module) -> Any:
    parent = nn.Sequential(layer)
    packed.unpack_in_products(parent)
    return parent.layers[0]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_UNPACKED", 40 * INNER)  # two chunks of 40 rows, one of 16


@pytest.mark.parametrize(
    ("bits", "mode"), [(2, "affine"), (3, "affine"), (4, "affine"), (8, "affine"), (4, "mxfp4")]
)
def test_an_unpacked_product_and_its_gradient_equal_mlx_s_packed_ones(
    bits: int, mode: str, small_chunks: None
) -> None:
    x = mx.random.normal((2, 5, INNER))
    layer = make_layer(bits, mode)
    expected = layer(x), mx.grad(lambda x: mx.square(layer(x)).sum())(x)
    unpacked = unpack(layer)
    actual = unpacked(x), mx.grad(lambda x: mx.square(unpacked(x)).sum())(x)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_unpacked_weights_are_those_of_mlx_to_the_bit(bits: int) -> None:
    layer = make_layer(bits)
    expected = mx.dequantize(layer.weight, layer.scales, layer.biases, 64, bits)
    actual = packed.unpack_rows(layer, slice(8, 40), [])
    assert mx.array_equal(actual, expected[8:40])


def test_a_single_row_is_multiplied_packed() -> None:
    layer = make_layer()
    x = mx.random.normal((packed.MIN_ROWS - 1, INNER))
    expected = layer(x)
    assert mx.array_equal(unpack(layer)(x), expected)


def test_a_tied_head_is_unpacked_too(small_chunks: None) -> None:
    x, embedding = mx.random.normal((7, INNER)), nn.Embedding(OUT, INNER).to_quantized(64, 4)
    expected, tokens = embedding.as_linear(x), embedding(mx.array([3, 95]))
    unpacked = unpack(embedding)
    assert type(unpacked) is packed.UnpackingEmbedding
    np.testing.assert_allclose(unpacked.as_linear(x), expected, rtol=1e-4, atol=1e-4)
    assert mx.array_equal(unpacked(mx.array([3, 95])), tokens)


def test_an_adapter_trains_on_an_unpacked_layer() -> None:
    layer, x = make_layer(), mx.random.normal((9, INNER))

    def gradient(linear: nn.Module) -> mx.array:
        lora = LoraLinear(linear, LoraConfig(4, 8), mx.random.key(3))
        lora.lora_b = mx.random.normal(lora.lora_b.shape, key=mx.random.key(4))
        lora.freeze()
        lora.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
        return nn.value_and_grad(lora, lambda lora: mx.square(lora(x)).sum())(lora)[1]["lora_a"]

    expected = gradient(layer)
    np.testing.assert_allclose(gradient(unpack(layer)), expected, rtol=1e-4, atol=1e-2)


def test_no_unpacked_weight_outlives_its_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight layers in a row, forward and backward, take the memory of a few unpacked chunks."""
    width = 1024
    monkeypatch.setattr(packed, "MAX_UNPACKED", 256 * width)
    model = nn.Sequential(
        *(nn.Linear(width, width, bias=False).to_quantized(64, 4) for _ in range(8))
    )
    packed.unpack_in_products(model)
    x = mx.random.normal((8, width))
    mx.eval(model.parameters(), x)
    mx.reset_peak_memory()
    resting = mx.get_active_memory()
    mx.eval(mx.grad(lambda x: model(x).sum())(x))
    chunk_bytes = 4 * packed.MAX_UNPACKED
    assert mx.get_peak_memory() - resting < 12 * chunk_bytes  # 64 chunks are unpacked in all
