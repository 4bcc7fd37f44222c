"""The loss of a batch and its gradient: packed rows, the head where something is supervised.

The rows of a batch are dealt to lanes (mondrian/model/streams.py), each packed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mondrian.core.params import Train
from mondrian.model.language import Features
from mondrian.model.lora import LoraLinear, drop_by
from mondrian.model.streams import LANES, dealt, lanes
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.chunked_cross_entropy import Head, plain_loss, supervised_loss
from mondrian.training.dataset import Example
from mondrian.training.packing import Packed, answer_states, pack

_GRAPHS = 64  # compiled ones that are kept


class Objective:
    """Weighted cross-entropy over the answers of a batch, for an adapter that is attached."""

    def __init__(
        self, features: FeatureCache, layers: dict[str, LoraLinear], params: Train
    ) -> None:
        self.features, self.layers, self.params = features, layers, params
        self.model = features.vlm.model
        self.head = Head(self.model)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def batch(self, rows: Sequence[Example]) -> Packed:
        """Rows as one packed sequence."""
        seen = [self.features.get(row.photo) for row in rows]
        return pack(rows, seen, self.features.vlm.image_id)

    def value(self, rows: Sequence[Example]) -> mx.array:
        """Sum of weighted cross-entropy, without dropout."""
        drop_by(self.layers, None)
        return sum(self._each(rows, lambda part, _: self._value(part)), mx.array(0.0))

    def gradient(self, rows: Sequence[Example], seed: int, divisor: float) -> tuple[mx.array, Any]:
        """Sum of weighted cross-entropy over `divisor`, and its gradient.

        seed  of the dropout; not evaluated yet
        """
        dropout = self.params.lora_dropout > 0
        keys = mx.random.split(mx.random.key(seed), LANES) if dropout else [None] * LANES
        found = self._each(rows, lambda part, i: self._part(part, keys[i], divisor))
        values, gradients = zip(*found, strict=True)
        return sum(values[1:], values[0]), tree_map(lambda *g: sum(g[1:], g[0]), *gradients)

    def _each(self, rows: Sequence[Example], work: Callable[[Sequence[Example], int], Any]) -> Any:
        """What `work` makes of each lane's rows, each on a thread of MLX of its own."""
        parts, found = dealt(rows), []
        for i, stream in enumerate(lanes(len(parts))):
            with mx.stream(stream):
                found.append(work(parts[i], i))
        return found

    def _value(self, rows: Sequence[Example]) -> mx.array:
        packed = self.batch(rows)
        hidden = answer_states(self.model, packed)
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        return plain_loss(self.head, hidden, targets, weights, self.params.head_chunk)

    def _part(self, rows: Sequence[Example], drawn: Any, divisor: float) -> tuple[mx.array, Any]:
        packed = self.batch(rows)
        if not self.params.compile:
            return self._gradient(packed, drawn, mx.array(divisor))
        arrays = [packed.ids, packed.lookup, packed.positions, packed.told, packed.targets,
                  packed.weights]  # fmt: skip
        key = (packed.parts, packed.last)
        if key not in self._compiled:
            if len(self._compiled) >= _GRAPHS:
                self._compiled.clear()
            self._compiled[key] = self._compile(packed)
        return self._compiled[key](
            [mx.array(a) for a in arrays],
            [(f.merged, f.deep, f.raw) for f in packed.seen], drawn, mx.array(divisor),
        )  # fmt: skip

    def _gradient(self, packed: Packed, drawn: Any, divisor: mx.array) -> tuple[mx.array, Any]:
        drop_by(self.layers, drawn)

        def mean_loss(model: Any) -> mx.array:
            hidden = answer_states(model, packed, self.params.gradient_checkpointing)
            targets, weights = mx.array(packed.targets), mx.array(packed.weights)
            chunk = self.params.head_chunk
            return supervised_loss(self.head, hidden, targets, weights, chunk) / divisor

        found: tuple[mx.array, Any] = nn.value_and_grad(self.model, mean_loss)(self.model)
        drop_by(self.layers, None)
        return found

    def _compile(self, like: Packed) -> Callable[..., Any]:
        """A compiled gradient for batches whose rows have these lengths."""

        grids = [seen.grid for seen in like.seen]
        like = replace(like, seen=())  # a graph is to hold no features of its own

        def run(arrays: Any, seen: Any, drawn: Any, divisor: mx.array) -> Any:
            ids, lookup, positions, told, targets, weights = arrays
            features = tuple(
                Features(m, d, grid, r) for grid, (m, d, r) in zip(grids, seen, strict=True)
            )
            packed: Any = replace(
                like, ids=ids, lookup=lookup, positions=positions, told=told, targets=targets,
                weights=weights, seen=features,
            )  # fmt: skip
            return self._gradient(packed, drawn, divisor)

        return mx.compile(run, inputs=self.model.state, outputs=self.model.state)
