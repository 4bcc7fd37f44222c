"""Packed rows against the plain forward, in values and gradients."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.model import lora
from mondrian.model.language import compute_logits, hidden_states, make_batch
from mondrian.model.lora_config import LoraConfig
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.chunked_cross_entropy import (
    LMHead,
    chunked_cross_entropy,
    chunked_cross_entropy_eval,
)
from mondrian.training.dataset import Example, build_examples
from mondrian.training.packing import compute_answer_states, pack, shared_prefix_length


@pytest.fixture
def learn(base_vlm: Any, rows: list[ChatRow], params: Params) -> tuple[list[Example], FeatureCache]:
    cache = FeatureCache(base_vlm, None, 0)
    even = params.train.model_copy(update={"score_weight": 1.0})
    return build_examples(base_vlm, rows[:3], even, cache), cache


def exactly(base_vlm: Any, batch: list[Example], cache: FeatureCache) -> float:
    """The loss of each row alone, its cross-entropy in double precision: mlx's own is 1e-5 off."""
    total = 0.0
    for example in batch:
        inputs = make_batch([example.ids], [cache.get(example.photo)], base_vlm.image_id)
        hidden = np.array(hidden_states(base_vlm.model, inputs)[0], np.float64)
        told = hidden[example.start - 1 : -1] @ np.array(LMHead(base_vlm.model).layer.weight).T
        answer = np.array(example.ids[example.start :])
        taken = told[np.arange(len(answer)), answer]
        total += float((np.logaddexp.reduce(told, axis=1) - taken).sum())
    return total


def plain_way(base_vlm: Any, batch: list[Example], cache: FeatureCache) -> Any:
    """Logits at every position of each row alone, then only what answers."""
    total = mx.array(0.0)
    for example in batch:
        inputs = make_batch([example.ids], [cache.get(example.photo)], base_vlm.image_id)
        told = compute_logits(base_vlm.model, hidden_states(base_vlm.model, inputs))[0]
        answer = mx.array(example.ids[example.start :])
        total = total + nn.losses.cross_entropy(told[example.start - 1 : -1], answer).sum()
    return total


def our_way(
    base_vlm: Any,
    batch: list[Example],
    cache: FeatureCache,
    share: bool = True,
    checkpoint: bool = False,
    chunk: int = 100,
) -> Any:
    packed = pack(batch, [cache.get(e.photo) for e in batch], base_vlm.image_id, share)
    hidden = compute_answer_states(base_vlm.model, packed, checkpoint)
    targets, weights = mx.array(packed.targets), mx.array(packed.weights)
    return chunked_cross_entropy(LMHead(base_vlm.model), hidden, targets, weights, chunk)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_packed_rows_lose_what_each_loses_alone(
    base_vlm: Any, learn: Any, share: bool, count: int
) -> None:
    rows, cache = learn
    ours = float(our_way(base_vlm, rows[:count], cache, share).item())
    assert ours == pytest.approx(exactly(base_vlm, rows[:count], cache), rel=2e-6)


def test_the_prompt_is_shared_up_to_the_photograph(base_vlm: Any, learn: Any) -> None:
    rows, cache = learn
    front = shared_prefix_length(rows, base_vlm.image_id)
    assert front == rows[0].ids.index(base_vlm.image_id)
    packed = pack(rows, [cache.get(e.photo) for e in rows], base_vlm.image_id)
    assert packed.ids.shape[1] == sum(len(e.ids) - 1 for e in rows) - 2 * front


def gradients(base_vlm: Any, loss: Any) -> dict[str, Any]:
    base_vlm.model.freeze()
    layers = lora.attach(base_vlm.model, LoraConfig(4, 8, num_layers=3), mx.random.key(0))
    for i, layer in enumerate(layers.values()):
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape, key=mx.random.key(i))
    lora.unfreeze_lora(layers)
    _, found = nn.value_and_grad(base_vlm.model, lambda _: loss())(base_vlm.model)
    lora.detach(base_vlm.model)
    return {name: np.array(value) for name, value in tree_flatten(found)}


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_those_of_the_plain_way(base_vlm: Any, learn: Any, checkpoint: bool) -> None:
    rows, cache = learn
    wanted = gradients(base_vlm, lambda: plain_way(base_vlm, rows, cache))
    ours = gradients(base_vlm, lambda: our_way(base_vlm, rows, cache, checkpoint=checkpoint))
    assert len(wanted) == 3 * 7 * 2
    assert wanted.keys() == ours.keys()
    size = np.sqrt(sum((w**2).sum() for w in wanted.values()))
    apart = np.sqrt(sum(((wanted[k] - ours[k]) ** 2).sum() for k in wanted))
    assert size > 0
    assert apart / size < 4e-5  # the plain way's own error


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunked_head_is_the_plain_one(bits: int, chunk: int) -> None:
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

    def wanted(h: mx.array) -> mx.array:
        told = Model.language_model.lm_head(h)
        return (nn.losses.cross_entropy(told, targets) * weights).sum()

    def ours(h: mx.array) -> mx.array:
        return chunked_cross_entropy(head, h, targets, weights, chunk)

    assert ours(hidden).item() == pytest.approx(wanted(hidden).item(), rel=1e-4)
    plain = chunked_cross_entropy_eval(head, hidden, targets, weights, chunk)
    assert plain.item() == pytest.approx(wanted(hidden).item(), rel=1e-4)
    close = np.allclose(
        np.array(mx.grad(ours)(hidden)), np.array(mx.grad(wanted)(hidden)), atol=1e-4
    )
    assert close
