"""Packed rows compared with the padded forward, in values and gradients."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.model import lora
from mondrian.model.language import (
    compute_logits,
    hidden_states,
    make_batch,
    shared_prefix_length,
)
from mondrian.model.lora import LoraConfig
from mondrian.model.vision_cache import FeatureCache
from mondrian.training import loss
from mondrian.training.dataset import Example, build_examples
from mondrian.training.loss import (
    LMHead,
    chunked_cross_entropy,
    chunked_cross_entropy_eval,
)
from mondrian.training.packing import compute_target_states, pack
from tests.tolerances import by_type, to_numpy


@pytest.fixture
def dataset(
    base_vlm: Any, rows: list[ChatRow], params: Params
) -> tuple[list[Example], FeatureCache]:
    cache = FeatureCache(base_vlm, None, 0)
    settings = params.train.model_copy(update={"score_weight": 1.0})
    return build_examples(rows[:3], settings, cache), cache


def exact_loss(base_vlm: Any, batch: list[Example], cache: FeatureCache) -> float:
    """Sum each row's cross-entropy in double precision: mlx's own is 1e-5 off."""
    total = 0.0
    for example in batch:
        inputs = make_batch([example.ids], [cache.get(example.photo)], base_vlm.image_id)
        hidden = to_numpy(hidden_states(base_vlm.model, inputs)[0]).astype(np.float64)
        logits = hidden[example.start - 1 : -1] @ to_numpy(LMHead(base_vlm.model).layer.weight).T
        targets = np.array(example.ids[example.start :])
        at_target = logits[np.arange(len(targets)), targets]
        total += float((np.logaddexp.reduce(logits, axis=1) - at_target).sum())
    return total


def padded_loss(base_vlm: Any, batch: list[Example], cache: FeatureCache) -> Any:
    """Sum the loss from logits at every position of each row."""
    total = mx.array(0.0)
    for example in batch:
        inputs = make_batch([example.ids], [cache.get(example.photo)], base_vlm.image_id)
        logits = compute_logits(base_vlm.model, hidden_states(base_vlm.model, inputs))[0]
        targets = mx.array(example.ids[example.start :])
        total = total + nn.losses.cross_entropy(logits[example.start - 1 : -1], targets).sum()
    return total


def packed_loss(
    base_vlm: Any,
    batch: list[Example],
    cache: FeatureCache,
    share: bool = True,
    checkpoint: bool = False,
) -> Any:
    packed = pack(batch, [cache.get(e.photo) for e in batch], base_vlm.image_id, share)
    hidden = compute_target_states(base_vlm.model, packed, checkpoint)
    targets, weights = mx.array(packed.targets), mx.array(packed.weights)
    return chunked_cross_entropy(LMHead(base_vlm.model), hidden, targets, weights, 100).sum()


@pytest.mark.device
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_the_loss_of_packed_rows_is_the_sum_of_single_losses(
    base_vlm: Any, dataset: Any, share: bool, count: int
) -> None:
    rows, cache = dataset
    ours = float(packed_loss(base_vlm, rows[:count], cache, share).item())
    assert ours == pytest.approx(
        exact_loss(base_vlm, rows[:count], cache), rel=by_type(2e-6, 1e-3, 1e-2)
    )


def test_the_prompt_is_shared_up_to_the_photo(base_vlm: Any, dataset: Any) -> None:
    rows, cache = dataset
    prefix = shared_prefix_length([e.ids for e in rows], base_vlm.image_id)
    assert prefix == rows[0].ids.index(base_vlm.image_id)
    packed = pack(rows, [cache.get(e.photo) for e in rows], base_vlm.image_id)
    assert packed.ids.shape[1] == sum(len(e.ids) - 1 for e in rows) - 2 * prefix


def compute_gradients(base_vlm: Any, loss: Any) -> dict[str, Any]:
    base_vlm.model.freeze()
    layers = lora.attach(base_vlm.model, LoraConfig(4, 8, num_layers=3), mx.random.key(0))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    lora.unfreeze_lora(layers)
    _, gradients = nn.value_and_grad(base_vlm.model, lambda _: loss())(base_vlm.model)
    lora.detach(base_vlm.model)
    return {name: np.array(value) for name, value in tree_flatten(gradients)}


@pytest.mark.device
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_of_packed_rows_equal_those_of_padded_rows(
    base_vlm: Any, dataset: Any, checkpoint: bool
) -> None:
    rows, cache = dataset
    padded = compute_gradients(base_vlm, lambda: padded_loss(base_vlm, rows, cache))
    packed = compute_gradients(
        base_vlm, lambda: packed_loss(base_vlm, rows, cache, checkpoint=checkpoint)
    )
    assert len(padded) == 3 * 7 * 2
    assert padded.keys() == packed.keys()
    norm = np.sqrt(sum((g**2).sum() for g in padded.values()))
    error = np.sqrt(sum(((padded[k] - packed[k]) ** 2).sum() for k in padded))
    assert norm > 0
    assert error / norm < by_type(4e-5, 3e-3, 2e-2)  # the error of the padded loss


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize(("chunk", "tile"), [(1, 8192), (7, 40), (64, 96), (64, 32)])
def test_chunked_cross_entropy_equals_mlxs(
    bits: int, chunk: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "VOCABULARY_TILE", tile)

    class Model:
        class language_model:
            class args:
                tie_word_embeddings = False

            lm_head: Any = nn.Linear(64, 96, bias=False)

    if bits:
        linear = Model.language_model.lm_head
        Model.language_model.lm_head = nn.QuantizedLinear.from_linear(linear, 32, bits)
    head = LMHead(Model)
    hidden, weights = mx.random.normal((20, 64)), mx.random.uniform(shape=(20,))
    targets = mx.random.randint(0, 96, (20,))

    def expected(h: mx.array) -> mx.array:
        logits = Model.language_model.lm_head(h)
        return (nn.losses.cross_entropy(logits, targets) * weights).sum()

    def chunked(h: mx.array) -> mx.array:
        return chunked_cross_entropy(head, h, targets, weights, chunk).sum()

    assert chunked(hidden).item() == pytest.approx(expected(hidden).item(), rel=1e-4)
    without_gradient = chunked_cross_entropy_eval(head, hidden, targets, weights, chunk)
    assert without_gradient.sum().item() == pytest.approx(expected(hidden).item(), rel=1e-4)
    gradient, expected_gradient = (np.array(mx.grad(f)(hidden)) for f in (chunked, expected))
    assert np.allclose(gradient, expected_gradient, atol=1e-4)
