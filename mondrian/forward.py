"""Qwen3-VL's language model over features made once: no evaluation inside, positions from the host.

mlx-vlm's own forward runs the vision tower each time and evaluates inside itself, so it can be
neither cached nor compiled. This one takes what the tower returned (merged features and every
DeepStack level) and is equal to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Features:
    """What the vision tower says of one photograph.

    merged   (image tokens, width)                 takes the place of the image tokens' embeddings
    deep     a level of DeepStack each, same shape  added after the first layers
    grid     (rows, columns) of image tokens
    """

    merged: mx.array
    deep: tuple[mx.array, ...]
    grid: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right; everything on the host but the features.

    ids        (batch, tokens)
    positions  (3, batch, tokens)   mRoPE: time, height, width
    lookup     (batch, tokens)      row of `features` at an image token, else the last row (zeros)
    features   merged, then each DeepStack level: (image tokens of all rows + 1, width)
    """

    ids: Ints
    positions: Ints
    lookup: Ints
    features: tuple[mx.array, ...]
    image: NDArray[np.bool_]


def positions(length: int, start: int, grid: tuple[int, int]) -> Ints:
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


def make_batch(rows: Sequence[Sequence[int]], seen: Sequence[Features], image_id: int) -> Batch:
    """Pad rows on the right and say where each photograph's features go."""
    length = max(len(row) for row in rows)
    ids = np.zeros((len(rows), length), np.int32)
    where = np.zeros((3, len(rows), length), np.int32)
    total = sum(f.merged.shape[0] for f in seen)
    lookup = np.full((len(rows), length), total, np.int32)
    first = 0
    for i, (row, features) in enumerate(zip(rows, seen, strict=True)):
        ids[i, : len(row)] = row
        start, count = row.index(image_id), features.merged.shape[0]
        where[:, i] = positions(length, start, features.grid)
        lookup[i, start : start + count] = np.arange(first, first + count)
        first += count
    return Batch(ids, where, lookup, _stack(seen), lookup < total)


def _stack(seen: Sequence[Features]) -> tuple[mx.array, ...]:
    levels = [[f.merged for f in seen], *map(list, zip(*(f.deep for f in seen), strict=True))]
    zero = mx.zeros((1, seen[0].merged.shape[1]), seen[0].merged.dtype)
    return tuple(mx.concatenate([*level, zero]) for level in levels)


def hidden_states(model: Any, batch: Batch, cache: Sequence[Any] | None = None) -> mx.array:
    """Last hidden states, normed; shape (batch, tokens, width). The cache is filled where given."""
    text = model.language_model.model
    embedded = text.embed_tokens(mx.array(batch.ids))
    lookup, image = mx.array(batch.lookup), mx.array(batch.image)[:, :, None]
    merged, *deep = batch.features
    h = mx.where(image, merged[lookup].astype(embedded.dtype), embedded)
    return layers(text, h, mx.array(batch.positions), [d[lookup] for d in deep], cache)


def layers(
    text: Any,
    h: mx.array,
    where: mx.array,
    deep: Sequence[mx.array] = (),
    cache: Sequence[Any] | None = None,
) -> mx.array:
    """All decoder layers and the last norm. deep[i] is added to the output of layer i."""
    mask = "causal" if h.shape[1] > 1 else None
    rotary = text.layers[0].self_attn.rotary_emb
    embeddings = None if rotary.fused_apply else rotary(h, where)
    for i, layer in enumerate(text.layers):
        h = layer(h, mask, cache[i] if cache else None, where, embeddings)
        if i < len(deep):
            h = h + deep[i].astype(h.dtype)
    return text.norm(h)


def logits(model: Any, hidden: mx.array) -> mx.array:
    """lm_head over whatever positions `hidden` holds."""
    language = model.language_model
    if language.args.tie_word_embeddings:
        return language.model.embed_tokens.as_linear(hidden)
    return language.lm_head(hidden)
