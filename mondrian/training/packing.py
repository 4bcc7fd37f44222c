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

from mondrian.model.kernels import Part
from mondrian.model.language import Features, Ints, decoder, embed, positions, rotation

_LEAST = 16  # tokens from which a shared front is worth its joins


class Packable(Protocol):
    """A row: tokens, where the answer begins, what each token of the answer counts."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def start(self) -> int: ...
    @property
    def weights(self) -> list[float]: ...


@dataclass(frozen=True)
class Packed:
    """A batch ready for the model; everything on the host but the features.

    ids, lookup  (1, tokens)      as in forward.Batch
    positions    (3, 1, tokens)
    parts        who sees whom in every layer but the last
    last         the same in the last layer, whose queries are `told` alone
    told         (supervised,)    positions whose next token is supervised
    targets      (supervised,)    that token
    weights      (supervised,)    how often it counts in the loss
    """

    ids: Ints
    lookup: Ints
    positions: Ints
    seen: tuple[Features, ...]
    parts: tuple[Part, ...]
    last: tuple[Part, ...]
    told: Ints
    targets: Ints
    weights: NDArray[np.float32]


def shared_front(rows: Sequence[Packable], image_id: int) -> int:
    """Tokens before the photograph that all rows begin with; 0 where they are few or one row."""
    if len(rows) < 2:
        return 0
    length = min(row.ids.index(image_id) for row in rows)
    heads = np.array([row.ids[:length] for row in rows])
    alike = (heads == heads[0]).all(axis=0)
    count = length if alike.all() else int(np.argmin(alike))
    return count if count >= _LEAST else 0


def pack(
    rows: Sequence[Packable], seen: Sequence[Features], image_id: int, share: bool = True
) -> Packed:
    """Lay rows behind each other; the last token of each is a target alone."""
    front = shared_front(rows, image_id) if share else 0
    ids, told, targets = [rows[0].ids[:front]], [], []
    where: list[Ints] = []
    parts, last = ([Part((0, front), ((0, front),))] if front else []), []
    total = sum(f.merged.shape[0] for f in seen)
    lookup, end, first, asked = [np.full(front, total)], front, 0, 0
    for row, features in zip(rows, seen, strict=True):
        start, count, length = row.ids.index(image_id), features.merged.shape[0], len(row.ids) - 1
        place = positions(length, start, features.grid)
        where += [place] if not where else [place[:, front:]]
        found = np.full(length, total)
        found[start : start + count] = np.arange(first, first + count)
        lookup.append(found[front:])
        ids.append(row.ids[front:-1])
        begin, end = end, end + length - front
        keys = ((0, front), (begin, end)) if front else ((begin, end),)
        parts.append(Part((begin, end), keys))
        answers = len(row.ids) - row.start
        told.append(np.arange(end - answers, end))
        targets.append(row.ids[row.start :])
        last.append(Part((asked, asked + answers), keys))
        first, asked = first + count, asked + answers
    return Packed(
        ids=np.concatenate(ids).astype(np.int32)[None],
        lookup=np.concatenate(lookup).astype(np.int32)[None],
        positions=np.concatenate(where, axis=1)[:, None],
        seen=tuple(seen),
        parts=tuple(parts),
        last=tuple(last),
        told=np.concatenate(told).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        weights=np.concatenate([row.weights for row in rows]).astype(np.float32),
    )


def answer_states(model: Any, batch: Packed, checkpoint: bool = False) -> mx.array:
    """Last hidden states, normed, where a token of an answer follows; (supervised, width).

    checkpoint  keep only what enters each layer and compute the rest again for the gradient
    """
    text = model.language_model.model
    h, deep = embed(model, batch.ids, batch.lookup, batch.seen)
    turn = rotation(text, h, mx.array(batch.positions))
    *layers, final = text.layers
    for i, layer in enumerate(layers):
        run = _again(layer) if checkpoint else decoder
        h = run(layer, h, batch.parts, turn)
        if i < len(deep):
            h = h + deep[i]
    told = mx.array(batch.told)
    h = decoder(final, h, batch.last, turn, chosen=told)
    if len(layers) < len(deep):  # a base of no more layers than DeepStack has levels
        h = h + deep[len(layers)][:, told]
    return text.norm(h)[0]


def _again(layer: Any) -> Any:
    """`decoder` under gradient checkpointing, the adapter's weights as inputs of it."""

    def run(_: Any, h: mx.array, parts: Any, turn: Any) -> mx.array:
        def inner(weights: Any, h: mx.array) -> mx.array:
            layer.update(weights)
            return decoder(layer, h, parts, turn)

        return mx.checkpoint(inner)(layer.trainable_parameters(), h)

    return run
