import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE, WEIGHTS_FILE
from mondrian.core.errors import AdapterError
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.model import adapter, lora
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.model.language import Decoder, Features
from mondrian.model.lora import LoraConfig
from mondrian.model.projections import draw_mask, join, round_keep_prob
from mondrian.model.vlm import encode_image, next_logits, tokenize_prompt
from tests.model.random_adapters import save_random_adapter

SETTINGS = LoraConfig(rank=4, alpha=8)


@pytest.fixture
def smoke_test(base_vlm: Any, photos: list[Image.Image]) -> tuple[list[int], Features]:
    features = encode_image(base_vlm, resize_to_fit(photos[0], 4096, 20_480))
    return tokenize_prompt(
        base_vlm, build_row_messages("You are an editor.", "")[:-1], features
    ), features


@pytest.fixture
def folder(base_vlm: Any, tmp_path: Path) -> Path:
    """An adapter with random weights, saved and detached."""
    return save_random_adapter(base_vlm, tmp_path / "adapter", SETTINGS)


def rewrite(folder: Path, change: Any) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


@pytest.mark.device
def test_a_new_adapter_changes_nothing_and_a_saved_one_does(
    base_vlm: Any, folder: Path, smoke_test: tuple[list[int], Features]
) -> None:
    before = next_logits(base_vlm, *smoke_test)
    lora.attach(base_vlm.model, SETTINGS, mx.random.key(0))
    assert mx.array_equal(next_logits(base_vlm, *smoke_test), before)
    lora.detach(base_vlm.model)
    adapter.load(base_vlm.model, base_vlm.hash, folder)
    assert not mx.array_equal(next_logits(base_vlm, *smoke_test), before)
    lora.detach(base_vlm.model)
    assert mx.array_equal(next_logits(base_vlm, *smoke_test), before)


def test_the_adapter_computes_the_lora_formula() -> None:
    linear = nn.Linear(6, 5, bias=False)
    layer = lora.LoraLinear(linear, SETTINGS, mx.random.key(0))
    layer.lora_b = mx.random.normal((4, 5))
    x = mx.random.normal((3, 6))
    merged = linear.weight.T + 2.0 * layer.lora_a @ layer.lora_b
    assert np.allclose(np.array(layer(x)), np.array(x @ merged), atol=1e-5)


def test_a_generation_uses_the_weights_that_the_adapter_has_at_its_start(
    base_vlm: Any, folder: Path, smoke_test: tuple[list[int], Features]
) -> None:
    def generate_ids() -> tuple[int, ...]:
        prompt, features = smoke_test
        return generate(base_vlm, [prompt], [features], SamplingParams(8))[0].ids

    base_ids = generate_ids()
    layers = adapter.load(base_vlm.model, base_vlm.hash, folder)
    for layer in layers.values():  # as an optimizer does
        layer.update({"lora_b": layer.lora_b + 0.1})
    weights = lora.lora_state_dict(layers)
    updated_ids = generate_ids()
    assert updated_ids != base_ids
    lora.load_lora_weights(layers, {name: mx.zeros_like(x) for name, x in weights.items()})
    assert generate_ids() == base_ids
    lora.load_lora_weights(layers, weights)
    assert generate_ids() == updated_ids


def count_operations(outputs: mx.array) -> int:
    graph = StringIO()
    mx.export_to_dot(graph, outputs)
    return len(re.findall(r"label *=", graph.getvalue()))


def test_an_adapter_adds_at_most_13_operations_to_a_layer_of_a_decode_step(
    base_vlm: Any, folder: Path, smoke_test: tuple[list[int], Features]
) -> None:
    text = base_vlm.model.language_model.model
    hidden = mx.zeros((1, 1, 128), text.norm.weight.dtype)
    positions = mx.zeros((3, 1, 1), mx.int32)

    def count_step() -> int:
        decoder = Decoder(text)
        mx.eval(decoder.arrays)
        return count_operations(decoder.run(hidden, positions))

    base_count = count_step()
    adapter.load(base_vlm.model, base_vlm.hash, folder)
    assert 0 < count_step() - base_count <= 13 * len(text.layers)


@pytest.mark.parametrize("config", [SETTINGS, LoraConfig(4, 8, dora=True)])
def test_joined_projections_compute_what_each_layer_computes(config: LoraConfig) -> None:
    linears = [nn.Linear(6, out) for out in (5, 3, 4)]
    layers = [lora.LoraLinear(linear, config, mx.random.key(0)) for linear in linears[:2]]
    for layer in layers:
        layer.lora_b = mx.random.normal(layer.lora_b.shape)
    x = mx.random.normal((7, 6))
    outputs = join([layers[0], linears[2], layers[1]], mx.float32)(x)
    for output, layer in zip(outputs, (layers[0], linears[2], layers[1]), strict=True):
        assert np.allclose(np.array(output), np.array(layer(x)), atol=1e-5)


def test_each_projection_drops_its_own_inputs_at_the_configured_rate() -> None:
    mask = draw_mask(mx.random.key(1), round_keep_prob(0.95), (3, 200, 101))
    rates = np.array(mask).mean((1, 2))
    assert np.abs(rates - 0.95).max() < 0.01
    assert 0.8 < (np.array(mask[0]) == np.array(mask[1])).mean() < 0.95  # independent: 0.905
    layers = [lora.LoraLinear(nn.Linear(64, 64), LoraConfig(4, 8, 0.5), None) for _ in "qk"]
    for layer in layers:
        layer.lora_a, layer.lora_b = mx.ones((64, 4)), mx.ones((4, 64))
    lora.set_dropout_key({str(i): layer for i, layer in enumerate(layers)}, mx.random.key(2))
    x = mx.ones((500, 64))
    outputs = join(layers, mx.float32)(x)
    deltas = [
        np.array(output - layer.linear(x))[:, 0]
        for output, layer in zip(outputs, layers, strict=True)
    ]
    assert all(abs(delta.mean() / (2 * 4 * 64) - 1) < 0.05 for delta in deltas)
    assert abs(np.corrcoef(np.stack(deltas))[0, 1]) < 0.2


def test_dora_starts_without_effect_on_a_base_packed_without_biases() -> None:
    linear = nn.QuantizedLinear.from_linear(nn.Linear(64, 32, bias=False), None, 4, "mxfp4")
    layer = lora.LoraLinear(linear, LoraConfig(4, 8, dora=True), mx.random.key(0))
    x = mx.random.normal((3, 64))
    assert np.allclose(np.array(layer(x)), np.array(linear(x)), atol=1e-5)


def test_an_adapter_fits_a_packed_linear_layer() -> None:
    packed = nn.QuantizedLinear.from_linear(nn.Linear(128, 64, bias=False), bits=4)
    assert lora.linear_shape(packed) == (64, 128)
    assert lora.LoraLinear(packed, SETTINGS, None)(mx.ones((2, 128))).shape == (2, 64)


def test_the_folder_has_pefts_layout(base_vlm: Any, folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    weights = load_file(folder / WEIGHTS_FILE)
    text = base_vlm.model.config.text_config
    assert len(weights) == 2 * 7 * text.num_hidden_layers
    name = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_{}.weight"
    assert weights[name.format("A")].shape == (4, text.hidden_size)
    assert weights[name.format("B")].shape == (text.intermediate_size, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(next(iter(w))), "has no lora_"),
        (lambda w: w.clear(), "contains no tensors"),
        (
            lambda w: w.update({"base_model.model.lm_head.weight": np.zeros(3, np.float32)}),
            "'lm_head' cannot be adapted",
        ),
        (
            lambda w: w.update({"a\n\x1b.lora_A.weight": np.zeros(3, np.float32)}),
            r"'a\\n\\x1b' cannot be adapted",
        ),
        (
            lambda w: w.update(other=np.zeros(3, np.float32)),
            "'other' cannot be adapted in this base",
        ),
        (
            lambda w: w.update({k: v[:1] for k, v in list(w.items())[:1]}),
            "has rank 1, adapter_config",
        ),
        (lambda w: w.update({k: v * np.nan for k, v in w.items()}), "contains NaN or inf"),
        (
            lambda w: w.update({k: v * 0 for k, v in w.items() if "lora_B" in k}),
            "every lora_B is zero",
        ),
    ],
)
def test_a_damaged_adapter_is_refused_and_the_base_stays_plain(
    base_vlm: Any, folder: Path, smoke_test: tuple[list[int], Features], change: Any, message: str
) -> None:
    before = next_logits(base_vlm, *smoke_test)
    rewrite(folder, change)
    with pytest.raises(AdapterError, match=message):
        adapter.load(base_vlm.model, base_vlm.hash, folder)
    assert mx.array_equal(next_logits(base_vlm, *smoke_test), before)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(base_vlm: Any, folder: Path, length: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AdapterError, match="cannot be read"):
        adapter.load(base_vlm.model, base_vlm.hash, folder)


def test_another_base_is_refused_by_name(base_vlm: Any, folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"was trained on .*mondrian-tiny .sha256 .*not on this"):
        adapter.load(base_vlm.model, "0" * 64, folder)


def test_a_missing_file_or_folder_is_named(base_vlm: Any, folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=r"has no adapter_model.safetensors"):
        adapter.load(base_vlm.model, base_vlm.hash, folder)
    (folder / "recipe.json").unlink()
    with pytest.raises(AdapterError, match=r"has no recipe.json"):
        adapter.load(base_vlm.model, base_vlm.hash, folder)
    with pytest.raises(AdapterError, match=r"is not a folder"):
        adapter.load(base_vlm.model, base_vlm.hash, folder / "ansel")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (RECIPE_FILE, "{", "is damaged"),
        (RECIPE_FILE, "[]", "is damaged"),
        (RECIPE_FILE, '{"base": "x"}', "damaged"),
        (CONFIG_FILE, "{}", "is damaged"),
        (CONFIG_FILE, '{"r": "x", "lora_alpha": 1}', "r is 'x'"),
        (CONFIG_FILE, '{"r": 4, "lora_alpha": NaN}', "lora_alpha is nan"),
        (CONFIG_FILE, f'{{"r": 4, "lora_alpha": {10**400}}}', "lora_alpha is 1000"),
        (CONFIG_FILE, '{"r": 4, "lora_alpha": 8, "lora_dropout": null}', "lora_dropout is None"),
        (CONFIG_FILE, '{"r": 4, "lora_alpha": 8, "use_dora": "false"}', "use_dora is 'false'"),
        (CONFIG_FILE, '{"r": 4, "lora_alpha": 8, "use_rslora": "yes"}', "use_rslora is 'yes'"),
    ],
)
def test_a_damaged_recipe_or_config_is_named(
    base_vlm: Any, folder: Path, name: str, text: str, message: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(AdapterError, match=message):
        adapter.load(base_vlm.model, base_vlm.hash, folder)


def test_an_adapter_without_effect_is_refused() -> None:
    logits = mx.array([1.0, 2.0])
    adapter.check_logits_differ(logits, logits + 1e-6, Path("adapter"))
    with pytest.raises(AdapterError, match="changes nothing"):
        adapter.check_logits_differ(logits, logits, Path("adapter"))
