"""Pack the rows of a batch into one sequence: no padding, and a shared prompt is computed once.

Every row of an advisor begins with the same instructions. They come first once, then the rows. Each
row's tokens attend to the shared prefix and their own row only. In the last layer only positions
that predict a completion token have queries.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mondrian.model import language
from mondrian.model.kernels import AttentionSpan, attention
from mondrian.model.language import Attend, Batch, Features, Ints, Rope, run_decoder_layer
from mondrian.training.dataset import Example

_MIN_PREFIX_TOKENS = 16  # a shorter prefix costs more to join than it saves


@dataclass(frozen=True)
class PackedBatch(Batch):
    """One packed sequence: a Batch of one row."""

    attention_spans: tuple[AttentionSpan, ...]  # of every layer but the last
    last_layer_spans: tuple[AttentionSpan, ...]  # its queries are `target_positions` only
    target_positions: Ints  # (supervised,) positions before a supervised token
    targets: Ints  # (supervised,) that token
    weights: NDArray[np.float32]  # (supervised,) its weight in the loss


def pack(
    rows: Sequence[Example], features: Sequence[Features], image_id: int, share_prefix: bool = True
) -> PackedBatch:
    """Lay rows one after the other; the last token of each is a target only."""
    prefix = language.shared_prefix_length([row.ids for row in rows], image_id)
    prefix = prefix if share_prefix and prefix >= _MIN_PREFIX_TOKENS else 0
    spans = [AttentionSpan((0, prefix), ((0, prefix),))] if prefix else []
    last_spans, target_positions = [], []
    positions: list[Ints] = []
    end, num_targets = prefix, 0
    for row, row_features in zip(rows, features, strict=True):
        length, count = len(row.ids) - 1, len(row.ids) - row.start
        mrope = language.compute_mrope_positions(length, row.ids.index(image_id), row_features.grid)
        positions.append(mrope[:, prefix:] if positions else mrope)
        first, end = end, end + length - prefix
        keys = ((0, prefix), (first, end)) if prefix else ((first, end),)
        spans.append(AttentionSpan((first, end), keys))
        last_spans.append(AttentionSpan((num_targets, num_targets + count), keys))
        target_positions.append(np.arange(end - count, end))
        num_targets += count
    parts = [rows[0].ids[:prefix], *(row.ids[prefix:-1] for row in rows)]
    ids = np.concatenate(parts).astype(np.int32)[None]
    return PackedBatch(
        ids=ids,
        positions=np.concatenate(positions, axis=1)[:, None],
        feature_index=language.index_features(ids, image_id, features),
        features=tuple(features),
        attention_spans=tuple(spans),
        last_layer_spans=tuple(last_spans),
        target_positions=np.concatenate(target_positions).astype(np.int32),
        targets=np.concatenate([row.ids[row.start :] for row in rows]).astype(np.int32),
        weights=np.concatenate([row.weights for row in rows]).astype(np.float32),
    )


def compute_target_states(model: Any, batch: PackedBatch, checkpoint: bool = False) -> mx.array:
    """Return the normed last hidden states (supervised, width) of the target positions.

    checkpoint  gradient checkpointing: store each layer's input only and recompute the rest
    """
    text = model.language_model.model
    h, deepstack = language.embed(model, batch.ids, batch.feature_index, batch.features)
    rope = language.make_rope(text, h, mx.array(batch.positions))
    *layers, last_layer = text.layers
    attend = partial(attention, mask=batch.attention_spans)
    run_layer = _run_checkpointed_layer if checkpoint else run_decoder_layer
    for i, layer in enumerate(layers):
        with _ordered_backward(text.layers, i, h) as h:
            h = run_layer(layer, h, attend, rope)
        if i < len(deepstack):
            h = h + deepstack[i]
    target_positions = mx.array(batch.target_positions)
    attend = partial(attention, mask=batch.last_layer_spans)
    with _ordered_backward(text.layers, len(layers), h) as h:
        h = run_decoder_layer(last_layer, h, attend, rope, target_positions)
    if len(layers) < len(deepstack):  # a base with no more layers than DeepStack levels
        h = h + deepstack[len(layers)][:, target_positions]
    return text.norm(h)[0]


@contextmanager
def _ordered_backward(layers: Sequence[Any], index: int, h: mx.array) -> Iterator[mx.array]:
    """Let the gradient of a layer's adapters be computed before the backward pass continues.

    MLX would compute all of them last, and keep every layer's inputs until then.
    """
    weights = tree_flatten(layers[index].trainable_parameters())
    if index == 0 or not weights or not tree_flatten(layers[index - 1].trainable_parameters()):
        yield h
        return
    ordered: Any = _wait_for_gradients(h, *(array for _, array in weights))
    h, *outputs = ordered
    names = [name for name, _ in weights]
    layers[index].update(tree_unflatten(list(zip(names, outputs, strict=True))))
    try:
        yield h
    finally:
        layers[index].update(tree_unflatten(weights))


@mx.custom_function
def _wait_for_gradients(*inputs: mx.array) -> Any:
    return inputs


@_wait_for_gradients.vjp
def _wait_for_gradients_vjp(_: Any, cotangents: Any, __: Any) -> Any:
    h, *weights = cotangents
    return *mx.depends([h], weights), *weights


def _run_checkpointed_layer(layer: Any, h: mx.array, attend: Attend, rope: Rope) -> mx.array:
    def run(weights: Any, h: mx.array) -> mx.array:  # the adapter's weights are inputs too
        layer.update(weights)
        return run_decoder_layer(layer, h, attend, rope)

    return mx.checkpoint(run)(layer.trainable_parameters(), h)
