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
from mondrian.model.device import NUM_STREAMS
from mondrian.model.language import Features
from mondrian.model.lora import LoraLinear, set_dropout_key
from mondrian.model.streams import assign_streams, split_over_streams
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.chunked_cross_entropy import (
    LMHead,
    chunked_cross_entropy,
    chunked_cross_entropy_eval,
)
from mondrian.training.dataset import Example
from mondrian.training.packing import PackedBatch, compute_answer_states, pack

_GRAPHS = 64  # compiled ones that are kept


class Loss:
    """Weighted cross-entropy over the answers of a batch, for an adapter that is attached."""

    def __init__(
        self, features: FeatureCache, layers: dict[str, LoraLinear], params: Train
    ) -> None:
        self.features, self.layers, self.params = features, layers, params
        self.model = features.vlm.model
        self.head = LMHead(self.model)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def pack_examples(self, rows: Sequence[Example]) -> PackedBatch:
        """Rows as one packed sequence."""
        features = [self.features.get(row.photo) for row in rows]
        return pack(rows, features, self.features.vlm.image_id)

    def compute_eval_loss(self, rows: Sequence[Example]) -> mx.array:
        """Sum of weighted cross-entropy, without dropout."""
        set_dropout_key(self.layers, None)
        return sum(self._map_streams(rows, lambda part, _: self._value(part)), mx.array(0.0))

    def compute_loss_and_grad(
        self, rows: Sequence[Example], seed: int, divisor: float
    ) -> tuple[mx.array, Any]:
        """Sum of weighted cross-entropy over `divisor`, and its gradient.

        seed  of the dropout; not evaluated yet
        """
        dropout = self.params.lora_dropout > 0
        keys = (
            mx.random.split(mx.random.key(seed), NUM_STREAMS) if dropout else [None] * NUM_STREAMS
        )
        results = self._map_streams(rows, lambda part, i: self._part(part, keys[i], divisor))
        values, gradients = zip(*results, strict=True)
        return sum(values[1:], values[0]), tree_map(lambda *g: sum(g[1:], g[0]), *gradients)

    def _map_streams(
        self, rows: Sequence[Example], work: Callable[[Sequence[Example], int], Any]
    ) -> Any:
        """What `work` makes of each lane's rows, each on a thread of MLX of its own."""
        parts, results = split_over_streams(rows), []
        for i, stream in enumerate(assign_streams(len(parts))):
            with mx.stream(stream):
                results.append(work(parts[i], i))
        return results

    def _value(self, rows: Sequence[Example]) -> mx.array:
        packed = self.pack_examples(rows)
        hidden = compute_answer_states(self.model, packed)
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        return chunked_cross_entropy_eval(
            self.head, hidden, targets, weights, self.params.loss_chunk_size
        )

    def _part(
        self, rows: Sequence[Example], dropout_key: Any, divisor: float
    ) -> tuple[mx.array, Any]:
        packed = self.pack_examples(rows)
        if not self.params.compile:
            return self._gradient(packed, dropout_key, mx.array(divisor))
        arrays = [
            packed.ids,
            packed.feature_index,
            packed.positions,
            packed.target_positions,
            packed.targets,
            packed.weights,
        ]
        key = (packed.attention_spans, packed.last_layer_spans)
        if key not in self._compiled:
            if len(self._compiled) >= _GRAPHS:
                self._compiled.clear()
            self._compiled[key] = self._compile(packed)
        return self._compiled[key](
            [mx.array(a) for a in arrays],
            [(f.merged, f.deep, f.pre_merger) for f in packed.features],
            dropout_key,
            mx.array(divisor),
        )

    def _gradient(
        self, packed: PackedBatch, dropout_key: Any, divisor: mx.array
    ) -> tuple[mx.array, Any]:
        set_dropout_key(self.layers, dropout_key)

        def mean_loss(model: Any) -> mx.array:
            hidden = compute_answer_states(model, packed, self.params.gradient_checkpointing)
            targets, weights = mx.array(packed.targets), mx.array(packed.weights)
            chunk = self.params.loss_chunk_size
            return chunked_cross_entropy(self.head, hidden, targets, weights, chunk) / divisor

        loss_and_grad: tuple[mx.array, Any] = nn.value_and_grad(self.model, mean_loss)(self.model)
        set_dropout_key(self.layers, None)
        return loss_and_grad

    def _compile(self, like: PackedBatch) -> Callable[..., Any]:
        """A compiled gradient for batches whose rows have these lengths."""

        grids = [f.grid for f in like.features]
        like = replace(like, features=())  # a graph is to hold no features of its own

        def run(arrays: Any, feature_arrays: Any, dropout_key: Any, divisor: mx.array) -> Any:
            ids, lookup, positions, target_positions, targets, weights = arrays
            features = tuple(
                Features(m, d, grid, r)
                for grid, (m, d, r) in zip(grids, feature_arrays, strict=True)
            )
            packed: Any = replace(
                like,
                ids=ids,
                feature_index=lookup,
                positions=positions,
                target_positions=target_positions,
                targets=targets,
                weights=weights,
                features=features,
            )
            return self._gradient(packed, dropout_key, divisor)

        return mx.compile(run, inputs=self.model.state, outputs=self.model.state)
