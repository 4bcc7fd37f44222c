"""Packed layers that a device cannot compute are unpacked when a base is loaded."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_vlm.convert import convert

from mondrian.model import vlm
from mondrian.model.language import Features, hidden_states, make_batch
from mondrian.model.packed_probe import run_product, unpack, unpack_refused_layers
from tests.conftest import ROOT

REFUSAL = "[quantized_matmul] No implementation for problem shape: 1x256x128x1"


@pytest.fixture(scope="module")
def packed_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mondrian-tiny in 4 bits."""
    folder = tmp_path_factory.mktemp("packed") / "base"
    convert(str(ROOT / "models/base/mondrian-tiny"), str(folder), quantize=True, q_bits=4)
    return folder


def refuse_input_size(size: int) -> Any:
    """Return a product function that refuses like MLX's CUDA kernels."""

    def run(layer: Any, x: mx.array, transpose: bool) -> None:
        if x.shape[1] == size and transpose:
            raise RuntimeError(REFUSAL)
        run_product(layer, x, transpose)

    return run


def packed_layers(model: nn.Module) -> list[str]:
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def test_refused_layers_of_a_base_are_unpacked_and_compute_the_same(
    packed_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = vlm.load(str(packed_base))
    features = Features(mx.ones((4, 128)), (), (2, 2))
    batch = make_batch([[3, *[base.image_id] * 4, 5, 9]], [features], base.image_id)
    before = np.array(hidden_states(base.model, batch))
    names = packed_layers(base.model)
    unpacked = unpack_refused_layers(base.model, base.float_type, refuse_input_size(128))
    left = packed_layers(base.model)
    assert sum(unpacked.values()) == len(names) - len(left)
    assert any("down_proj" in name for name in left)
    assert not any("q_proj" in name or "embed_tokens" in name for name in left)
    assert np.abs(np.array(hidden_states(base.model, batch)) - before).max() < 1e-4
    assert "no kernel here for packed products of 128 x 128 in 4 bits" in capsys.readouterr().err


def test_a_base_that_is_computed_stays_packed(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.QuantizedLinear(64, 64, bits=4), nn.QuantizedLinear(64, 64, bits=8))
    assert unpack_refused_layers(model, mx.float32) == {}
    assert len(packed_layers(model)) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bias", [True, False])
def test_an_unpacked_layer_computes_what_the_packed_one_does(bias: bool) -> None:
    packed = nn.QuantizedLinear(64, 32, bias=bias, bits=4)
    if bias:
        packed.bias = mx.arange(32, dtype=mx.float32)
    x = mx.random.normal((3, 64))
    assert mx.allclose(unpack(packed, mx.float32)(x), packed(x), atol=1e-5)


def test_another_error_of_the_probe_is_not_a_refusal() -> None:
    def run(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 1073741824 bytes.")

    with pytest.raises(RuntimeError, match="Unable to allocate"):
        unpack_refused_layers(nn.Sequential(nn.QuantizedLinear(64, 64)), mx.float32, run)
