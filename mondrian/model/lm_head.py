"""Rows of the lm_head, tied to the embeddings or not, packed or not; greedy choice of tokens.

Logits that differ by less than 0.4 % may be equal in bfloat16, and argmax takes the lowest token
id, which of two digits is the lower score. Greedy decoding computes the highest logits again.
"""

from typing import Any

import mlx.core as mx

_NUM_CANDIDATES = 8  # highest logits of a row that are computed again in float32
_BLOCK = 128  # tokens: sorting the maxima of blocks is cheaper than sorting a vocabulary


def choose_greedily(model: Any, hidden: mx.array, logits: mx.array) -> mx.array:
    """Return the token (rows,) of the highest logit, as float32 logits would choose it.

    hidden   (rows, width)       states that gave the logits
    logits   (rows, vocabulary)  masked tokens have minus infinity
    """
    if logits.dtype == mx.float32:
        return mx.argmax(logits, axis=-1)
    candidates = find_highest(logits, _NUM_CANDIDATES)
    allowed = mx.take_along_axis(logits, candidates, axis=-1) > -mx.inf
    rows = weight_rows(head_layer(model), candidates)
    exact = (rows @ hidden.astype(mx.float32)[:, :, None])[:, :, 0]
    best = mx.argmax(mx.where(allowed, exact, -mx.inf), axis=-1, keepdims=True)
    return mx.take_along_axis(candidates, best, axis=-1)[:, 0]


def head_layer(model: Any) -> Any:
    """Return the layer with the weights of the lm_head."""
    language = model.language_model
    return language.model.embed_tokens if language.args.tie_word_embeddings else language.lm_head


def weight_rows(layer: Any, tokens: mx.array) -> mx.array:
    """Return the weights of some tokens, (*tokens.shape, width), in float32."""
    if not hasattr(layer, "bits"):
        return layer.weight[tokens].astype(mx.float32)
    scales, biases = layer.scales[tokens], layer.get("biases")
    if biases is not None:  # the product is in the type of the scales
        scales, biases = scales.astype(mx.float32), biases[tokens].astype(mx.float32)
    packed = (layer.weight[tokens], scales, biases, layer.group_size, layer.bits, layer.mode)
    return mx.dequantize(*packed, dtype=mx.float32)


def find_highest(logits: mx.array, count: int) -> mx.array:
    """Return the tokens (rows, count) of the highest logits of each row, in ascending order."""
    rows, size = logits.shape
    blocks = mx.pad(logits, [(0, 0), (0, -size % _BLOCK)], constant_values=-mx.inf)
    maxima = blocks.reshape(rows, -1, _BLOCK).max(axis=-1)
    best_blocks = _highest_indices(maxima, min(count, maxima.shape[1]))
    tokens = (best_blocks[:, :, None] * _BLOCK + mx.arange(_BLOCK)).reshape(rows, -1)
    values = mx.take_along_axis(blocks, tokens, axis=-1)
    highest = mx.take_along_axis(tokens, _highest_indices(values, count), axis=-1)
    return mx.minimum(mx.sort(highest, axis=-1), size - 1)  # padding only if all others are masked


def _highest_indices(values: mx.array, count: int) -> mx.array:
    return mx.argpartition(-values, kth=count - 1, axis=-1)[:, :count]
