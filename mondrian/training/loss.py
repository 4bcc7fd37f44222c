"""Loss and gradient of a batch: rows are split over MLX streams, and packed on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from mondrian.core.params import Train
from mondrian.model.language import Features
from mondrian.model.lora import LoraLinear, set_dropout_key
from mondrian.model.streams import NUM_STREAMS, assign_streams, split_over_streams
from mondrian.model.vision_cache import FeatureCache
from mondrian.training import chunked_cross_entropy as cross_entropy
from mondrian.training.dataset import Example
from mondrian.training.packing import PackedBatch, compute_answer_states, pack

_MAX_GRAPHS = 64  # compiled graphs in memory
_ARRAYS = ("ids", "feature_index", "positions", "target_positions", "targets", "weights")


class Loss:
    """Weighted cross-entropy over the completions of a batch, for an attached adapter."""

    def __init__(
        self, features: FeatureCache, layers: dict[str, LoraLinear], params: Train
    ) -> None:
        self.features, self.layers, self.params = features, layers, params
        self.model = features.vlm.model
        self.head = cross_entropy.LMHead(self.model)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def compute_eval_loss(self, rows: Sequence[Example]) -> mx.array:
        """Return the sum of weighted cross-entropy, without dropout."""
        set_dropout_key(self.layers, None)

        def compute(packed: PackedBatch, _: int) -> mx.array:
            hidden = compute_answer_states(self.model, packed)
            return self._cross_entropy(cross_entropy.chunked_cross_entropy_eval, packed, hidden)

        return sum(self._map_streams(rows, compute), mx.array(0.0))

    def compute_loss_and_grad(
        self, rows: Sequence[Example], seed: int, divisor: float
    ) -> tuple[mx.array, Any]:
        """Return the sum of weighted cross-entropy over `divisor`, and its gradient, not evaluated.

        seed  of the dropout
        """
        keys: Any = [None] * NUM_STREAMS
        if self.params.lora_dropout > 0:
            keys = mx.random.split(mx.random.key(seed), NUM_STREAMS)
        compute = self._compiled_gradient if self.params.compile else self._gradient
        results = self._map_streams(
            rows, lambda packed, i: compute(packed, keys[i], mx.array(divisor))
        )
        losses, gradients = zip(*results, strict=True)
        return sum(losses[1:], losses[0]), tree_map(lambda *g: sum(g[1:], g[0]), *gradients)

    def _map_streams(
        self, rows: Sequence[Example], compute: Callable[[PackedBatch, int], Any]
    ) -> list[Any]:
        """Pack the rows of each stream and call `compute` on it there."""
        parts, results = split_over_streams(rows), []
        for i, stream in enumerate(assign_streams(len(parts))):
            with mx.stream(stream):
                features = [self.features.get(row.photo) for row in parts[i]]
                packed = pack(parts[i], features, self.features.vlm.image_id)
                results.append(compute(packed, i))
        return results

    def _cross_entropy(
        self, function: Callable[..., mx.array], packed: PackedBatch, hidden: mx.array
    ) -> mx.array:
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        return function(self.head, hidden, targets, weights, self.params.loss_chunk_size)

    def _gradient(
        self, packed: PackedBatch, dropout_key: Any, divisor: mx.array
    ) -> tuple[mx.array, Any]:
        set_dropout_key(self.layers, dropout_key)

        def mean_loss(model: Any) -> mx.array:
            hidden = compute_answer_states(model, packed, self.params.gradient_checkpointing)
            loss = self._cross_entropy(cross_entropy.chunked_cross_entropy, packed, hidden)
            return loss / divisor

        loss_and_grad: tuple[mx.array, Any] = nn.value_and_grad(self.model, mean_loss)(self.model)
        set_dropout_key(self.layers, None)
        return loss_and_grad

    def _compiled_gradient(
        self, packed: PackedBatch, dropout_key: Any, divisor: mx.array
    ) -> tuple[mx.array, Any]:
        key = (packed.attention_spans, packed.last_layer_spans)
        if key not in self._compiled:
            if len(self._compiled) >= _MAX_GRAPHS:
                self._compiled.clear()
            self._compiled[key] = self._compile(packed)
        arrays = {name: mx.array(getattr(packed, name)) for name in _ARRAYS}
        features = [(f.merged, f.deep, f.pre_merger) for f in packed.features]
        return self._compiled[key](arrays, features, dropout_key, divisor)

    def _compile(self, packed: PackedBatch) -> Callable[..., Any]:
        """Return a compiled gradient for batches whose rows have the same lengths."""
        grids = [f.grid for f in packed.features]
        template = replace(packed, features=())  # a graph must not keep features in memory

        def run(arrays: Any, feature_arrays: Any, dropout_key: Any, divisor: mx.array) -> Any:
            features = tuple(
                Features(merged, deep, grid, pre_merger)
                for grid, (merged, deep, pre_merger) in zip(grids, feature_arrays, strict=True)
            )
            batch = replace(template, features=features, **arrays)
            return self._gradient(batch, dropout_key, divisor)

        return mx.compile(run, inputs=self.model.state, outputs=self.model.state)
