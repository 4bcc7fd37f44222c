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
from numpy.typing import NDArray

from mondrian.model.kernels import Mask, attention, swiglu
from mondrian.model.projections import GATE_UP, QKV, Projections, join

Ints = NDArray[np.int32]
Attend = Callable[[mx.array, mx.array, mx.array, float], mx.array]  # q, k, v, scale
Rope = Callable[[mx.array, mx.array, Any], tuple[mx.array, mx.array]]  # q, k, query positions


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
    """Run all decoder layers and the final norm once; see `Decoder.run`."""
    return Decoder(text).run(h, position_ids, deepstack, cache)


class Decoder:
    """The decoder layers for many passes with the same weights.

    An adapter's weights are joined and cast once, so build a new one after they have changed.
    """

    def __init__(self, text: Any) -> None:
        self.text = text
        self.layers = [DecoderLayer(layer) for layer in text.layers]
        self.arrays = [array for layer in self.layers for array in layer.arrays]

    def run(
        self,
        h: mx.array,
        position_ids: mx.array,
        deepstack: Sequence[mx.array] = (),
        cache: Sequence[Any] | None = None,
    ) -> mx.array:
        """Run all decoder layers and the final norm.

        deepstack  [i] is added to the output of layer i
        cache      one per layer; its `attend` replaces causal attention
        """
        batch, length, width = h.shape
        mask: Mask = "causal" if length > 1 else None
        rope = make_rope(self.text, h, position_ids)
        h = h.reshape(-1, width)
        for i, layer in enumerate(self.layers):
            attend = cache[i].attend if cache else partial(attention, mask=mask)
            h = layer.run(h, batch, attend, rope)
            if i < len(deepstack):
                h = h + deepstack[i].reshape(-1, width)
        return self.text.norm(h).reshape(batch, length, width)


def make_rope(text: Any, h: mx.array, position_ids: mx.array) -> Rope:
    """Return a function that applies mRoPE to q, at some query positions or all, and to k."""
    rotary = text.layers[0].self_attn.rotary_emb
    if rotary.fused_apply:

        def apply_fused(
            q: mx.array, k: mx.array, query_positions: Any
        ) -> tuple[mx.array, mx.array]:
            apply: Any = rotary.apply_rotary
            if query_positions is None:
                return apply(q, k, position_ids)
            q_ids = position_ids[:, :, query_positions]
            return apply(q, q, q_ids)[0], apply(k, k, position_ids)[0]

        return apply_fused
    cos, sin = rotary(h, position_ids)
    half = sin.shape[-1] // 2
    cos, sin = cos[:, None], mx.concatenate([-sin[..., :half], sin[..., half:]], axis=-1)[:, None]

    def apply_rope(q: mx.array, k: mx.array, query_positions: Any) -> tuple[mx.array, mx.array]:
        q_cos, q_sin = cos, sin
        if query_positions is not None:
            q_cos, q_sin = cos[:, :, query_positions], sin[:, :, query_positions]
        return _rotate(q, q_cos, q_sin), _rotate(k, cos, sin)

    return apply_rope


@mx.compile
def _rotate(x: mx.array, cos: mx.array, signed_sin: mx.array) -> mx.array:
    """Apply RoPE to x (batch, heads, tokens, width); the first half of the sines is negated."""
    first, second = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([second, first], axis=-1) * signed_sin


def run_decoder_layer(
    layer: Any, h: mx.array, attend: Attend, rope: Rope, query_positions: mx.array | None = None
) -> mx.array:
    """Run one decoder layer once; with query_positions, of one row, for these outputs only.

    All positions still give keys and values, so the outputs equal those of a full pass.
    """
    batch, _, width = h.shape
    h = DecoderLayer(layer).run(h.reshape(-1, width), batch, attend, rope, query_positions)
    return h.reshape(batch, -1, width)


class DecoderLayer:
    """One decoder layer with its projections joined by their inputs."""

    def __init__(self, layer: Any) -> None:
        self.attn, self.dtype = layer.self_attn, layer.input_layernorm.weight.dtype
        self.input_norm, self.mlp_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv, self.gate_up = self._join(self.attn, QKV), self._join(layer.mlp, GATE_UP)
        self.o, self.down = self._join(self.attn, ["o_proj"]), self._join(layer.mlp, ["down_proj"])
        groups = (self.qkv, self.o, self.gate_up, self.down)
        self.arrays = [array for projections in groups for array in projections.arrays]

    def _join(self, parent: Any, names: Sequence[str]) -> Projections:
        return join([parent[name] for name in names], self.dtype)

    def run(
        self,
        h: mx.array,
        batch: int,
        attend: Attend,
        rope: Rope,
        query_positions: mx.array | None = None,
    ) -> mx.array:
        """Return the output (rows, width) for an input (batch * tokens, width)."""
        x = self.input_norm(h)
        q, k, v = self._project_heads(x, batch, query_positions)
        q, k = rope(q, k, query_positions)
        attn_out = attend(q, k, v, self.attn.scale).transpose(0, 2, 1, 3)
        residual = h if query_positions is None else h[query_positions]
        h = residual + self.o(attn_out.reshape(residual.shape[0], -1))[0]
        gate, up = self.gate_up(self.mlp_norm(h))
        return h + self.down(swiglu(gate, up))[0]

    def _project_heads(
        self, x: mx.array, batch: int, query_positions: mx.array | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Return q, k, v, each (batch, heads, tokens, width)."""
        attn = self.attn
        if query_positions is None:
            q, k, v = self.qkv(x)
        else:
            q = self._join(attn, ["q_proj"])(x[query_positions])[0]
            k, v = self._join(attn, ["k_proj", "v_proj"])(x)
        return (
            _split_heads(q, batch, attn.n_heads, attn.q_norm),
            _split_heads(k, batch, attn.n_kv_heads, attn.k_norm),
            _split_heads(v, batch, attn.n_kv_heads, None),
        )


def _split_heads(x: mx.array, batch: int, count: int, norm: Any) -> mx.array:
    x = x.reshape(batch, x.shape[0] // batch, count, -1)
    return (norm(x) if norm is not None else x).transpose(0, 2, 1, 3)


def compute_logits(model: Any, hidden: mx.array) -> mx.array:
    language = model.language_model
    if language.args.tie_word_embeddings:
        return language.model.embed_tokens.as_linear(hidden)
    return language.lm_head(hidden)
