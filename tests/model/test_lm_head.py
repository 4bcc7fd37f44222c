"""Greedy decoding in 16 bit chooses the token that float32 logits have highest."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mondrian.model.language import compute_logits
from mondrian.model.lm_head import choose_greedily, find_highest, weight_rows

PACKED = {"4 bit": (32, 4, "affine"), "8 bit": (32, 8, "affine"), "mxfp4": (32, 4, "mxfp4")}


def make_model(vocabulary: int, packing: str, float_type: Any) -> Any:
    """Return an untied head with 64 inputs; rows come in pairs that are almost equal."""
    key = mx.random.key(3)
    weight = mx.repeat(mx.random.normal((vocabulary // 2, 64), key=key), 2, axis=0)
    weight = weight + 0.003 * mx.random.normal(weight.shape, key=key)
    layer = nn.Linear(64, vocabulary, bias=False)
    layer.weight = weight.astype(float_type)
    if packing:
        group_size, bits, mode = PACKED[packing]
        layer = nn.QuantizedLinear.from_linear(layer, group_size, bits, mode)
    args = SimpleNamespace(tie_word_embeddings=False)
    return SimpleNamespace(language_model=SimpleNamespace(args=args, lm_head=layer))


@pytest.mark.parametrize("packing", ["", *PACKED])
@pytest.mark.parametrize("float_type", [mx.float16, mx.bfloat16])
def test_the_highest_float32_logit_is_chosen(packing: str, float_type: Any) -> None:
    model = make_model(300, packing, float_type)
    hidden = mx.random.normal((400, 64), key=mx.random.key(1)).astype(float_type)
    logits = compute_logits(model, hidden)
    rows = np.array(weight_rows(model.language_model.lm_head, mx.arange(300)))
    expected = (np.array(hidden.astype(mx.float32)) @ rows.T).argmax(-1)
    assert choose_greedily(model, hidden, logits).tolist() == expected.tolist()
    rounded = np.array(mx.argmax(logits, axis=-1))
    if packing != "mxfp4":  # packs both rows of a pair into the same weights
        assert (rounded < expected).sum() > (rounded > expected).sum(), "ties take the lower id"


def test_masked_tokens_are_never_chosen() -> None:
    model = make_model(300, "", mx.bfloat16)
    hidden = mx.random.normal((2, 64), key=mx.random.key(1)).astype(mx.bfloat16)
    allowed = [[7], [12, 290]]
    masked = np.full((2, 300), -np.inf, np.float32)
    for row, tokens in enumerate(allowed):
        masked[row, tokens] = -50.0
    chosen = choose_greedily(model, hidden, mx.array(masked).astype(mx.bfloat16))
    assert all(token in tokens for token, tokens in zip(np.array(chosen), allowed, strict=True))


@pytest.mark.parametrize("size", [5, 8, 128, 300, 1024])
def test_the_highest_logits_are_those_of_a_sort(size: int) -> None:
    logits = mx.random.permutation(mx.arange(3 * size), key=mx.random.key(2)).reshape(3, size)
    count = min(8, size)
    expected = np.sort(np.argsort(-np.array(logits), axis=-1)[:, :count], axis=-1)
    assert find_highest(logits.astype(mx.float32), count).tolist() == expected.tolist()
