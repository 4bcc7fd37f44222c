"""Rows of a batch as one packed sequence: no padding, and the prompt they share computed once.

Every row of an advisor begins with the same instructions. They stand at the front once, the rows
behind them; each row's tokens see the shared front and their own row, and nothing else. In the last
layer only the positions that predict an answer's token ask anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mondrian.model.kernels import AttentionSpan
from mondrian.model.language import (
    Features,
    Ints,
    compute_mrope_positions,
    embed,
    make_rope,
    run_decoder_layer,
)

_MIN_PREFIX_TOKENS = 16  # tokens from which a shared front is worth its joins


class Packable(Protocol):
    """A row: tokens, where the answer begins, what each token of the answer counts."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def weights(self) -> list[float]: ...


@dataclass(frozen=True)
class PackedBatch:
    """A batch ready for the model; everything on the host but the features.

    ids, feature_index  (1, tokens)      as in forward.Batch
    positions    (3, 1, tokens)
    attention_spans        who sees whom in every layer but the last
    last_layer_spans         the same in the last layer, whose queries are `target_positions` alone
    target_positions         (supervised,)    positions whose next token is supervised
    targets      (supervised,)    that token
    weights      (supervised,)    how often it counts in the loss
    """

    ids: Ints
    feature_index: Ints
    positions: Ints
    features: tuple[Features, ...]
    attention_spans: tuple[AttentionSpan, ...]
    last_layer_spans: tuple[AttentionSpan, ...]
    target_positions: Ints
    targets: Ints
    weights: NDArray[np.float32]


def shared_prefix_length(rows: Sequence[Packable], image_id: int) -> int:
    """Tokens before the photograph that all rows begin with; 0 where they are few or one row."""
    if len(rows) < 2:
        return 0
    length = min(row.ids.index(image_id) for row in rows)
    heads = np.array([row.ids[:length] for row in rows])
    alike = (heads == heads[0]).all(axis=0)
    count = length if alike.all() else int(np.argmin(alike))
    return count if count >= _MIN_PREFIX_TOKENS else 0


def pack(
    rows: Sequence[Packable], image_features: Sequence[Features], image_id: int, share: bool = True
) -> PackedBatch:
    """Lay rows behind each other; the last token of each is a target alone."""
    front = shared_prefix_length(rows, image_id) if share else 0
    ids, target_positions, targets = [rows[0].ids[:front]], [], []
    position_ids: list[Ints] = []
    parts, last = ([AttentionSpan((0, front), ((0, front),))] if front else []), []
    total = sum(f.merged.shape[0] for f in image_features)
    lookup, end, first, n_targets = [np.full(front, total)], front, 0, 0
    for row, features in zip(rows, image_features, strict=True):
        start, count, length = row.ids.index(image_id), features.merged.shape[0], len(row.ids) - 1
        place = compute_mrope_positions(length, start, features.grid)
        position_ids += [place] if not position_ids else [place[:, front:]]
        row_lookup = np.full(length, total)
        row_lookup[start : start + count] = np.arange(first, first + count)
        lookup.append(row_lookup[front:])
        ids.append(row.ids[front:-1])
        begin, end = end, end + length - front
        keys = ((0, front), (begin, end)) if front else ((begin, end),)
        parts.append(AttentionSpan((begin, end), keys))
        answers = len(row.ids) - row.start
        target_positions.append(np.arange(end - answers, end))
        targets.append(row.ids[row.start :])
        last.append(AttentionSpan((n_targets, n_targets + answers), keys))
        first, n_targets = first + count, n_targets + answers
    return PackedBatch(
        ids=np.concatenate(ids).astype(np.int32)[None],
        feature_index=np.concatenate(lookup).astype(np.int32)[None],
        positions=np.concatenate(position_ids, axis=1)[:, None],
        features=tuple(image_features),
        attention_spans=tuple(parts),
        last_layer_spans=tuple(last),
        target_positions=np.concatenate(target_positions).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        weights=np.concatenate([row.weights for row in rows]).astype(np.float32),
    )


def compute_answer_states(model: Any, batch: PackedBatch, checkpoint: bool = False) -> mx.array:
    """Last hidden states, normed, where a token of an answer follows; (supervised, width).

    checkpoint  keep only what enters each layer and compute the rest again for the gradient
    """
    text = model.language_model.model
    h, deep = embed(model, batch.ids, batch.feature_index, batch.features)
    turn = make_rope(text, h, mx.array(batch.positions))
    *layers, final = text.layers
    for i, layer in enumerate(layers):
        run = _checkpointed_decoder(layer) if checkpoint else run_decoder_layer
        h = run(layer, h, batch.attention_spans, turn)
        if i < len(deep):
            h = h + deep[i]
    target_positions = mx.array(batch.target_positions)
    h = run_decoder_layer(final, h, batch.last_layer_spans, turn, chosen=target_positions)
    if len(layers) < len(deep):  # a base of no more layers than DeepStack has levels
        h = h + deep[len(layers)][:, target_positions]
    return text.norm(h)[0]


def _checkpointed_decoder(layer: Any) -> Any:
    """`decoder` under gradient checkpointing, the adapter's weights as inputs of it."""

    def run(_: Any, h: mx.array, parts: Any, turn: Any) -> mx.array:
        def inner(weights: Any, h: mx.array) -> mx.array:
            layer.update(weights)
            return run_decoder_layer(layer, h, parts, turn)

        return mx.checkpoint(inner)(layer.trainable_parameters(), h)

    return run
