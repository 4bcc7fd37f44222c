"""Loss and gradient of a batch: rows are split over MLX streams, and packed on each.

Cross-entropy is computed over chunks of positions and tiles of the vocabulary, and its gradient
with respect to the hidden states in the forward pass, while a tile's logits exist: at most chunk x
tile of them exist at a time, and none is computed twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

from mondrian.core.params import TrainParams
from mondrian.model.cpu.packed import unpack_rows
from mondrian.model.device import DEVICE
from mondrian.model.kernels import EXP_SCALE, power
from mondrian.model.language import Features
from mondrian.model.lm_head import head_layer, weight_rows
from mondrian.model.lora import LoraLinear, set_dropout_key
from mondrian.model.streams import assign_streams, split_over_streams
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import Example
from mondrian.training.odds_ratio import compute_log_odds_ratios, odds_ratio_loss
from mondrian.training.packing import PackedBatch, compute_target_states, pack

VOCABULARY_TILE = 8192  # logits of a position in memory at the same time
_LOWEST = float(np.finfo(np.float32).min) / 2
_MAX_GRAPHS = 64  # compiled graphs in memory
LOSS_SUMS = (
    "cross_entropy",
    "odds_ratio_loss",
    "preferred",
)  # the last: pairs with a ratio above 1
_BATCH_ARRAYS = ("ids", "feature_index", "positions", "target_positions", "targets", "weights")


class LMHead:
    """The model's lm_head: tied or not, packed or not. `rows` selects a part of the vocabulary."""

    def __init__(self, model: Any) -> None:
        self.layer = head_layer(model)
        self._is_packed = hasattr(self.layer, "bits")

    def vocabulary_tiles(self) -> list[slice]:
        size = self.layer.weight.shape[0]
        return [slice(i, min(size, i + VOCABULARY_TILE)) for i in range(0, size, VOCABULARY_TILE)]

    def logits(self, hidden: mx.array, rows: slice) -> mx.array:
        """Return logits (positions, rows) of hidden states (positions, width), in float32."""
        return self._multiply(hidden, rows, True)

    def backward(self, gradient: mx.array, rows: slice, dtype: Any) -> mx.array:
        """Return the gradient of hidden states (positions, width) for one of logits."""
        return self._multiply(gradient.astype(dtype), rows, False)

    def _multiply(self, x: mx.array, rows: slice, transpose: bool) -> mx.array:
        layer = self.layer
        if self._is_packed and not DEVICE.own_kernels:
            biases = layer.get("biases")
            biases = biases if biases is None else biases[rows]
            packed = (layer.weight[rows], layer.scales[rows], biases, transpose)
            product = mx.quantized_matmul(x, *packed, layer.group_size, layer.bits, layer.mode)
            return product.astype(mx.float32)
        weight = unpack_rows(layer, rows, [x]) if self._is_packed else layer.weight[rows]
        return (x @ (weight.T if transpose else weight)).astype(mx.float32)

    def weight_rows(self, tokens: mx.array) -> mx.array:
        """Return the weights of some tokens, (tokens, width), in float32."""
        return weight_rows(self.layer, tokens)


def chunked_cross_entropy(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Return the weighted cross-entropy (positions,); its gradient is computed in the forward pass.

    hidden   (positions, width)  last hidden states of supervised positions
    targets  (positions,)        next token ids
    weights  (positions,)        weight of each in the loss
    chunk    positions with logits in memory at the same time
    """

    @mx.custom_function
    def losses_and_gradients(hidden: mx.array) -> Any:
        losses: list[mx.array] = []
        gradients: list[mx.array] = []
        for part in _split(hidden, chunk):
            target, weight = targets[part], weights[part][:, None]
            h = _wait_for(hidden[part], [*gradients[-1:], *losses[-1:]])
            token_loss, mean_row = _compute_token_loss(head, h, target, True)
            losses.append(token_loss * weight)
            gradient = mean_row - head.weight_rows(target)
            gradients.append((gradient * weight).astype(h.dtype))
        return mx.concatenate(losses)[:, 0], mx.concatenate(gradients)

    @losses_and_gradients.vjp
    def _(_: Any, cotangents: Any, outputs: Any) -> mx.array:
        return (outputs[1] * cotangents[0][:, None]).astype(outputs[1].dtype)

    outputs: Any = losses_and_gradients(hidden)
    return outputs[0]


def chunked_cross_entropy_eval(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Return the same without a gradient, for validation: half the work."""
    losses: list[mx.array] = []
    for part in _split(hidden, chunk):
        h = _wait_for(hidden[part], losses[-1:])
        token_loss, _ = _compute_token_loss(head, h, targets[part], False)
        losses.append(token_loss * weights[part][:, None])
    return mx.concatenate(losses)[:, 0]


def _split(hidden: mx.array, chunk: int) -> list[slice]:
    """Return chunks of at most `chunk` positions, all of about the same size."""
    positions = hidden.shape[0]
    count = -(-positions // chunk)
    return [slice(positions * i // count, positions * (i + 1) // count) for i in range(count)]


def _wait_for(h: mx.array, previous: list[mx.array]) -> mx.array:
    """Return `h`, computed after `previous`: MLX would compute all logits at once."""
    return mx.depends([h], previous)[0]


def _compute_token_loss(
    head: LMHead, h: mx.array, target: mx.array, with_gradient: bool
) -> tuple[mx.array, mx.array]:
    """Return cross-entropy (positions, 1), and the mean of the head's rows by softmax.

    Both are sums over the vocabulary, scaled by the highest logit so far. They are updated tile by
    tile, like attention with the rows as keys and values (online softmax, arXiv:1805.02867).
    """
    highest = mx.full((h.shape[0], 1), _LOWEST)
    norm, at_target = mx.zeros_like(highest), mx.zeros_like(highest)
    weighted = mx.zeros(h.shape) if with_gradient else norm
    for rows in head.vocabulary_tiles():
        logits = head.logits(_wait_for(h, [norm, weighted]) * EXP_SCALE, rows)
        index = target[:, None] - rows.start
        is_inside = (index >= 0) & (index < rows.stop - rows.start)
        value = mx.take_along_axis(logits, mx.where(is_inside, index, 0), axis=-1)
        at_target = mx.where(is_inside, value, at_target)
        previous, highest = (
            highest,
            mx.maximum(highest, _in_blocks(logits).max(1).max(-1, keepdims=True)),
        )
        powers, factor = power(logits - highest), power(previous - highest)
        norm = norm * factor + _in_blocks(powers).sum(1).sum(-1, keepdims=True)
        if with_gradient:
            weighted = weighted * factor + head.backward(powers, rows, h.dtype)
    return mx.log(norm) + (highest - at_target) / EXP_SCALE, weighted / norm


def _in_blocks(x: mx.array) -> mx.array:
    """Reshape to (positions, n / 64, 64): MLX reduces the middle axis three times faster."""
    block = 64 if x.shape[1] % 64 == 0 else 1
    return x.reshape(x.shape[0], -1, block)


@dataclass(frozen=True)
class StepSize:
    """What the loss of an optimizer step is divided by, over all its batches and ranks."""

    weight: float  # of the completions' tokens
    rows: int

    @classmethod
    def of(cls, rows: Sequence[Example]) -> "StepSize":
        return cls(sum(sum(row.weights) for row in rows), len(rows))


class Loss:
    """Loss of a batch for an attached adapter: SFT's, and of preference pairs ORPO's in addition.

    SFT's is the weighted mean cross-entropy of the completions, without the rejected ones. ORPO
    adds train.orpo_beta times the mean odds-ratio loss, which is 0 for a row without a pair.
    """

    def __init__(
        self, features: FeatureCache, layers: dict[str, LoraLinear], params: TrainParams
    ) -> None:
        self.features, self.layers, self.params = features, layers, params
        self.model = features.vlm.model
        self.head = LMHead(self.model)
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def compute_eval_loss(self, rows: Sequence[Example]) -> mx.array:
        """Return the sum of weighted cross-entropy, without dropout."""
        return self._evaluate(rows)[0]

    def iter_eval_sums(self, rows: Sequence[Example]) -> Iterator[NDArray[np.float32]]:
        """Yield the sums of each batch of rows: see `LOSS_SUMS`."""
        for i in range(0, len(rows), self.params.batch_size):
            yield np.array(self._evaluate(rows[i : i + self.params.batch_size]))

    def compute_loss_and_grad(
        self, rows: Sequence[Example], seed: int, size: StepSize
    ) -> tuple[mx.array, Any]:
        """Return `LOSS_SUMS` and the gradient of the loss, not evaluated; `seed` is of dropout."""
        keys: Any = [None] * DEVICE.num_streams
        if self.params.lora_dropout > 0:
            keys = mx.random.split(mx.random.key(seed), DEVICE.num_streams)
        compute = self._compiled_gradient if self.params.compile else self._gradient
        divisors = mx.array([size.weight, size.rows])
        results = self._map_streams(rows, lambda p, i: compute(p, keys[i], divisors))
        sums, gradients = zip(*results, strict=True)
        return sum(sums[1:], sums[0]), tree_map(lambda *g: sum(g[1:], g[0]), *gradients)

    def _evaluate(self, rows: Sequence[Example]) -> mx.array:
        set_dropout_key(self.layers, None)
        loss_fn = chunked_cross_entropy_eval
        sums = self._map_streams(rows, lambda p, _: self._sums(self.model, p, loss_fn, False))
        return sum(sums[1:], sums[0])

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

    def _sums(self, model: Any, packed: PackedBatch, loss_fn: Any, checkpoint: bool) -> mx.array:
        """Return `LOSS_SUMS`."""
        hidden = compute_target_states(model, packed, checkpoint)
        targets, weights = mx.array(packed.targets), mx.array(packed.weights)
        losses = loss_fn(self.head, hidden, targets, weights, self.params.loss_chunk_size)
        cross_entropy, zero = losses[: packed.num_chosen].sum(), mx.array(0.0)
        if not packed.pairs:
            return mx.stack([cross_entropy, zero, zero])
        ratios = compute_log_odds_ratios(losses, weights, packed.pairs)
        return mx.stack([cross_entropy, odds_ratio_loss(ratios).sum(), (ratios > 0).sum()])

    def _gradient(
        self, packed: PackedBatch, dropout_key: Any, divisors: mx.array
    ) -> tuple[mx.array, Any]:
        set_dropout_key(self.layers, dropout_key)

        def mean_loss(model: Any) -> tuple[mx.array, mx.array]:
            checkpoint = self.params.gradient_checkpointing
            sums = self._sums(model, packed, chunked_cross_entropy, checkpoint)
            loss = sums[0] / divisors[0]
            if packed.pairs:
                loss = loss + self.params.orpo_beta * sums[1] / divisors[1]
            return loss, sums

        (_, sums), gradient = nn.value_and_grad(self.model, mean_loss)(self.model)
        set_dropout_key(self.layers, None)
        return sums, gradient

    def _compiled_gradient(
        self, packed: PackedBatch, dropout_key: Any, divisors: mx.array
    ) -> tuple[mx.array, Any]:
        key = (packed.attention_spans, packed.last_layer_spans, packed.pairs)
        if key not in self._compiled:
            if len(self._compiled) >= _MAX_GRAPHS:
                self._compiled.clear()
            self._compiled[key] = self._compile(packed)
        arrays = {name: mx.array(getattr(packed, name)) for name in _BATCH_ARRAYS}
        features = [(f.merged, f.deepstack, f.pre_merger) for f in packed.features]
        return self._compiled[key](arrays, features, dropout_key, divisors)

    def _compile(self, packed: PackedBatch) -> Callable[..., Any]:
        """Return a compiled gradient for batches with rows of the same lengths."""
        grids = [f.grid for f in packed.features]
        template = replace(packed, features=())  # a graph must not keep features in memory

        def run(arrays: Any, feature_arrays: Any, dropout_key: Any, divisors: mx.array) -> Any:
            features = tuple(
                Features(merged, deep, grid, pre_merger)
                for grid, (merged, deep, pre_merger) in zip(grids, feature_arrays, strict=True)
            )
            batch = replace(template, features=features, **arrays)
            return self._gradient(batch, dropout_key, divisors)

        return mx.compile(run, inputs=self.model.state, outputs=self.model.state)
