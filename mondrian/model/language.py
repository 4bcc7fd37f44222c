"""Qwen3-VL's language model over features made once: no evaluation inside, positions from the host.

mlx-vlm's own forward runs the vision tower each time and evaluates inside itself, so it can be
neither cached nor compiled. This one takes what the tower returned (merged features and every
DeepStack level) and is equal to it. mondrian/training/packing.py lays out rows for training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.models.qwen3_vl.language import apply_multimodal_rotary_pos_emb
from numpy.typing import NDArray

from mondrian.model.kernels import Mask, attention, swiglu

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Features:
    """What the vision tower says of one photograph.

    merged   (image tokens, width)                 takes the place of the image tokens' embeddings
    deep     a level of DeepStack each, same shape  added after the first layers
    grid     (rows, columns) of image tokens
    pre_merger      what enters the merger, where an adapter on it makes `merged` anew
    """

    merged: mx.array
    deep: tuple[mx.array, ...]
    grid: tuple[int, int]
    pre_merger: mx.array | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right; everything on the host but the features.

    ids        (batch, tokens)
    positions  (3, batch, tokens)   mRoPE: time, height, width
    feature_index     (batch, tokens)      row of `features` at an image token, else the last row
    (zeros)
    features       of each row's photograph
    """

    ids: Ints
    positions: Ints
    feature_index: Ints
    features: tuple[Features, ...]


def compute_mrope_positions(length: int, start: int, grid: tuple[int, int]) -> Ints:
    """mRoPE positions of one row whose image tokens begin at `start`; shape (3, length).

    Text counts up on all three axes; an image holds time still and counts height and width; the
    text behind it goes on at the larger of the two (Qwen2-VL, arXiv:2409.12191, section 2.1).
    """
    rows, columns = grid
    count = rows * columns
    out = np.empty((3, length), np.int32)
    out[:, :start] = np.arange(start)
    out[0, start : start + count] = start
    out[1, start : start + count] = start + np.repeat(np.arange(rows), columns)
    out[2, start : start + count] = start + np.tile(np.arange(columns), rows)
    out[:, start + count :] = start + max(grid) + np.arange(length - start - count)
    return out


def make_batch(
    rows: Sequence[Sequence[int]], row_features: Sequence[Features], image_id: int
) -> Batch:
    """Pad rows on the right and say where each photograph's features go."""
    length = max(len(row) for row in rows)
    ids = np.zeros((len(rows), length), np.int32)
    position_ids = np.zeros((3, len(rows), length), np.int32)
    total = sum(f.merged.shape[0] for f in row_features)
    lookup = np.full((len(rows), length), total, np.int32)
    first = 0
    for i, (row, features) in enumerate(zip(rows, row_features, strict=True)):
        ids[i, : len(row)] = row
        start, count = row.index(image_id), features.merged.shape[0]
        position_ids[:, i] = compute_mrope_positions(length, start, features.grid)
        lookup[i, start : start + count] = np.arange(first, first + count)
        first += count
    return Batch(ids, position_ids, lookup, tuple(row_features))


def hidden_states(model: Any, batch: Batch) -> mx.array:
    """Last hidden states, normed; shape (batch, tokens, width)."""
    h, deep = embed(model, batch.ids, batch.feature_index, batch.features)
    return run_decoder_layers(model.language_model.model, h, mx.array(batch.positions), deep)


def embed(
    model: Any, ids: Ints, lookup: Ints, features: Sequence[Features]
) -> tuple[mx.array, list[mx.array]]:
    """What enters the first layer, and what DeepStack adds after the first ones."""
    embedded = model.language_model.model.embed_tokens(mx.array(ids))
    merger = model.vision_tower.merger
    merged = [f.merged if f.pre_merger is None else merger(f.pre_merger) for f in features]
    levels = [merged, *map(list, zip(*(f.deep for f in features), strict=True))]
    zero = mx.zeros((1, embedded.shape[-1]), embedded.dtype)
    indices = mx.array(lookup)
    first, *deep = (
        mx.concatenate([*(a.astype(zero.dtype) for a in level), zero])[indices] for level in levels
    )
    image = mx.array(lookup < sum(f.merged.shape[0] for f in features))[:, :, None]
    return mx.where(image, first, embedded), deep


def run_decoder_layers(
    text: Any,
    h: mx.array,
    position_ids: mx.array,
    deep: Sequence[mx.array] = (),
    cache: Sequence[Any] | None = None,
) -> mx.array:
    """All decoder layers and the last norm. deep[i] is added to the output of layer i.

    cache  a layer each, whose `attend` takes the place of causal attention
    """
    mask: Mask = "causal" if h.shape[1] > 1 else None
    turn = make_rope(text, h, position_ids)
    for i, layer in enumerate(text.layers):
        h = run_decoder_layer(layer, h, mask, turn, cache=cache[i] if cache else None)
        if i < len(deep):
            h = h + deep[i]
    return text.norm(h)


Rotation = Callable[[Any, mx.array, mx.array, Any], tuple[mx.array, mx.array]]


def make_rope(text: Any, h: mx.array, position_ids: mx.array) -> Rotation:
    """Turns queries and keys to their positions; `chosen` takes those of some queries alone."""
    rotary = text.layers[0].self_attn.rotary_emb
    if rotary.fused_apply:
        return lambda attn, q, k, chosen: (
            attn.rotary_emb.apply_rotary(
                q, q, position_ids if chosen is None else position_ids[:, :, chosen]
            )[0],
            attn.rotary_emb.apply_rotary(k, k, position_ids)[0],
        )
    cos, sin = rotary(h, position_ids)

    def turn(_: Any, q: mx.array, k: mx.array, chosen: Any) -> tuple[mx.array, mx.array]:
        if chosen is None:
            return apply_multimodal_rotary_pos_emb(q, k, cos, sin)
        rotated_q = apply_multimodal_rotary_pos_emb(q, q, cos[:, chosen], sin[:, chosen])[0]
        return rotated_q, apply_multimodal_rotary_pos_emb(k, k, cos, sin)[0]

    return turn


def run_decoder_layer(
    layer: Any,
    h: mx.array,
    mask: Mask,
    turn: Rotation,
    chosen: mx.array | None = None,
    cache: Any = None,
) -> mx.array:
    """One decoder layer; with `chosen`, the outputs of those positions alone, (1, chosen, width).

    All positions give keys and values, so that the outputs are what they are without `chosen`.
    """
    attn = layer.self_attn
    x = layer.input_layernorm(h)
    query_input = x if chosen is None else x[:, chosen]
    q = _heads(attn.q_proj(query_input), attn.n_heads, attn.q_norm)
    k = _heads(attn.k_proj(x), attn.n_kv_heads, attn.k_norm)
    v = _heads(attn.v_proj(x), attn.n_kv_heads, None)
    q, k = turn(attn, q, k, chosen)
    attn_out = (
        attention(q, k, v, attn.scale, mask) if cache is None else cache.attend(q, k, v, attn.scale)
    )
    out = attn_out.transpose(0, 2, 1, 3)
    residual = h if chosen is None else h[:, chosen]
    h = residual + attn.o_proj(out.reshape(*out.shape[:2], -1))
    x = layer.post_attention_layernorm(h)
    return h + layer.mlp.down_proj(swiglu(layer.mlp.gate_proj(x), layer.mlp.up_proj(x)))


def _heads(x: mx.array, count: int, norm: Any) -> mx.array:
    x = x.reshape(*x.shape[:2], count, -1)
    return (norm(x) if norm is not None else x).transpose(0, 2, 1, 3)


def compute_logits(model: Any, hidden: mx.array) -> mx.array:
    """lm_head over whatever positions `hidden` holds."""
    language = model.language_model
    if language.args.tie_word_embeddings:
        return language.model.embed_tokens.as_linear(hidden)
    return language.lm_head(hidden)
