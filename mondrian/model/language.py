"""Qwen3-VL's language model over precomputed vision features.

mlx-vlm's own forward runs the vision tower each time and evaluates inside itself, so it can be
neither cached nor compiled. This one takes the tower's output (merged features and DeepStack
levels), never evaluates and computes positions in numpy; its logits equal mlx-vlm's.
mondrian/training/packing.py lays out rows for training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.models.qwen3_vl.language import apply_multimodal_rotary_pos_emb
from numpy.typing import NDArray

from mondrian.model.kernels import Mask, attention, swiglu

Ints = NDArray[np.int32]
Attend = Callable[[mx.array, mx.array, mx.array, float], mx.array]  # q, k, v, scale
Rope = Callable[[Any, mx.array, mx.array, Any], tuple[mx.array, mx.array]]


@dataclass(frozen=True)
class Features:
    """The vision tower's output for one photo."""

    merged: mx.array  # (image tokens, width): embeddings of the image tokens
    deepstack: tuple[mx.array, ...]  # DeepStack levels, same shape; added after the first layers
    grid: tuple[int, int]  # (rows, columns) of image tokens
    pre_merger: mx.array | None = None  # the merger's input, for an adapter on the merger

    @property
    def nbytes(self) -> int:
        pre_merger = [] if self.pre_merger is None else [self.pre_merger]
        return sum(array.nbytes for array in (self.merged, *self.deepstack, *pre_merger))


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right; all but the features on the host."""

    ids: Ints  # (batch, tokens)
    positions: Ints  # (3, batch, tokens); mRoPE: time, height, width
    feature_index: Ints  # (batch, tokens), as `index_features` returns it
    features: tuple[Features, ...]  # of each row's photo


def compute_mrope_positions(length: int, start: int, grid: tuple[int, int]) -> Ints:
    """Return the mRoPE positions (3, length) of one row with image tokens from `start`.

    Text counts up on all three axes. An image holds time constant and counts height and width. The
    text after it continues at the larger of the two (Qwen2-VL, arXiv:2409.12191, section 2.1).
    """
    rows, columns = grid
    count = rows * columns
    positions = np.empty((3, length), np.int32)
    positions[:, :start] = np.arange(start)
    positions[0, start : start + count] = start
    positions[1, start : start + count] = start + np.repeat(np.arange(rows), columns)
    positions[2, start : start + count] = start + np.tile(np.arange(columns), rows)
    positions[:, start + count :] = start + max(grid) + np.arange(length - start - count)
    return positions


def shared_prefix_length(rows: Sequence[Sequence[int]], image_id: int) -> int:
    """Return how many tokens all rows share before the photo; 0 for a single row."""
    if len(rows) < 2:
        return 0
    return min(len(commonprefix([list(ids) for ids in rows])), rows[0].index(image_id))


def index_features(ids: Ints, image_id: int, features: Sequence[Features]) -> Ints:
    """Number the image tokens in order; all other tokens get the next number, of a row of zeros."""
    total = sum(f.merged.shape[0] for f in features)
    index = np.full(ids.shape, total, np.int32)
    index[ids == image_id] = np.arange(total)
    return index


def make_batch(
    rows: Sequence[Sequence[int]], row_features: Sequence[Features], image_id: int
) -> Batch:
    length = max(len(row) for row in rows)
    ids = np.zeros((len(rows), length), np.int32)
    position_ids = np.zeros((3, len(rows), length), np.int32)
    for i, (row, features) in enumerate(zip(rows, row_features, strict=True)):
        ids[i, : len(row)] = row
        position_ids[:, i] = compute_mrope_positions(length, row.index(image_id), features.grid)
    feature_index = index_features(ids, image_id, row_features)
    return Batch(ids, position_ids, feature_index, tuple(row_features))


def hidden_states(model: Any, batch: Batch) -> mx.array:
    """Return the last hidden states after the final norm, (batch, tokens, width)."""
    h, deepstack = embed(model, batch.ids, batch.feature_index, batch.features)
    return run_decoder_layers(model.language_model.model, h, mx.array(batch.positions), deepstack)


def embed(
    model: Any, ids: Ints, feature_index: Ints, features: Sequence[Features]
) -> tuple[mx.array, list[mx.array]]:
    """Return the input of the first layer, and what DeepStack adds after each of the first ones."""
    embedded = model.language_model.model.embed_tokens(mx.array(ids))
    merger = model.vision_tower.merger
    merged = [f.merged if f.pre_merger is None else merger(f.pre_merger) for f in features]
    levels = [merged, *map(list, zip(*(f.deepstack for f in features), strict=True))]
    zero = mx.zeros((1, embedded.shape[-1]), embedded.dtype)
    indices = mx.array(feature_index)
    image_embeddings, *deepstack = (
        mx.concatenate([*(a.astype(zero.dtype) for a in level), zero])[indices] for level in levels
    )
    is_image = mx.array(feature_index < sum(f.merged.shape[0] for f in features))[:, :, None]
    return mx.where(is_image, image_embeddings, embedded), deepstack


def run_decoder_layers(
    text: Any,
    h: mx.array,
    position_ids: mx.array,
    deepstack: Sequence[mx.array] = (),
    cache: Sequence[Any] | None = None,
) -> mx.array:
    """Run all decoder layers and the final norm.

    deepstack  [i] is added to the output of layer i
    cache      one per layer; its `attend` replaces causal attention
    """
    mask: Mask = "causal" if h.shape[1] > 1 else None
    rope = make_rope(text, h, position_ids)
    for i, layer in enumerate(text.layers):
        attend = cache[i].attend if cache else partial(attention, mask=mask)
        h = run_decoder_layer(layer, h, attend, rope)
        if i < len(deepstack):
            h = h + deepstack[i]
    return text.norm(h)


def make_rope(text: Any, h: mx.array, position_ids: mx.array) -> Rope:
    """Return a function that applies mRoPE to q, at some query positions or all, and to k."""
    rotary = text.layers[0].self_attn.rotary_emb
    if rotary.fused_apply:

        def apply_fused(
            attn: Any, q: mx.array, k: mx.array, query_positions: Any
        ) -> tuple[mx.array, mx.array]:
            q_ids = position_ids if query_positions is None else position_ids[:, :, query_positions]
            apply = attn.rotary_emb.apply_rotary
            return apply(q, q, q_ids)[0], apply(k, k, position_ids)[0]

        return apply_fused
    cos, sin = rotary(h, position_ids)

    def apply_rope(
        _: Any, q: mx.array, k: mx.array, query_positions: Any
    ) -> tuple[mx.array, mx.array]:
        if query_positions is None:
            return apply_multimodal_rotary_pos_emb(q, k, cos, sin)
        q_cos, q_sin = cos[:, query_positions], sin[:, query_positions]
        rotated_q = apply_multimodal_rotary_pos_emb(q, q, q_cos, q_sin)[0]
        return rotated_q, apply_multimodal_rotary_pos_emb(k, k, cos, sin)[0]

    return apply_rope


def run_decoder_layer(
    layer: Any, h: mx.array, attend: Attend, rope: Rope, query_positions: mx.array | None = None
) -> mx.array:
    """Run one decoder layer; with query_positions for these outputs only, (1, positions, width).

    All positions still give keys and values, so the outputs equal those of a full pass.
    """
    attn = layer.self_attn
    x = layer.input_layernorm(h)
    query_input = x if query_positions is None else x[:, query_positions]
    q = _split_heads(attn.q_proj(query_input), attn.n_heads, attn.q_norm)
    k = _split_heads(attn.k_proj(x), attn.n_kv_heads, attn.k_norm)
    v = _split_heads(attn.v_proj(x), attn.n_kv_heads, None)
    q, k = rope(attn, q, k, query_positions)
    attn_out = attend(q, k, v, attn.scale).transpose(0, 2, 1, 3)
    residual = h if query_positions is None else h[:, query_positions]
    h = residual + attn.o_proj(attn_out.reshape(*attn_out.shape[:2], -1))
    x = layer.post_attention_layernorm(h)
    return h + layer.mlp.down_proj(swiglu(layer.mlp.gate_proj(x), layer.mlp.up_proj(x)))


def _split_heads(x: mx.array, count: int, norm: Any) -> mx.array:
    x = x.reshape(*x.shape[:2], count, -1)
    return (norm(x) if norm is not None else x).transpose(0, 2, 1, 3)


def compute_logits(model: Any, hidden: mx.array) -> mx.array:
    language = model.language_model
    if language.args.tie_word_embeddings:
        return language.model.embed_tokens.as_linear(hidden)
    return language.lm_head(hidden)
