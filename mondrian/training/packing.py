"""Pack the rows of a batch into one sequence: no padding, and a shared prompt is computed once.

Every row of an advisor begins with the same instructions. They come first once, then the rows. Each
row's tokens attend to the shared prefix and their own row only. A rejected completion comes after
all rows and attends to its row's prompt and itself, so prompt and photo are computed once for two
critiques. In the last layer only positions that predict a completion token have queries.
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
from mondrian.model.kernels import AttentionSpan, Span, attention
from mondrian.model.language import Attend, Batch, Features, Ints, Rope, run_decoder_layer
from mondrian.training.dataset import Example

Pair = tuple[Span, Span]  # targets of the chosen and of the rejected completion
_MIN_PREFIX_TOKENS = 16  # a shorter prefix costs more to join than it saves


@dataclass(frozen=True)
class PackedBatch(Batch):
    """One packed sequence: a Batch of one row."""

    attention_spans: tuple[AttentionSpan, ...]  # of every layer but the last
    last_layer_spans: tuple[AttentionSpan, ...]  # its queries are `target_positions` only
    target_positions: Ints  # (supervised,) positions before a supervised token
    targets: Ints  # (supervised,) that token
    weights: NDArray[np.float32]  # (supervised,) its weight in the loss
    pairs: tuple[Pair, ...] = ()  # the targets of rejected completions are the last ones

    @property
    def num_chosen(self) -> int:
        """Return the number of targets that are not of a rejected completion."""
        return self.pairs[0][1][0] if self.pairs else len(self.targets)


def pack(
    rows: Sequence[Example], features: Sequence[Features], image_id: int, share_prefix: bool = True
) -> PackedBatch:
    """Lay rows one after the other, then rejected completions; the last token is a target only."""
    prefix = language.shared_prefix_length([row.ids for row in rows], image_id)
    prefix = prefix if share_prefix and prefix >= _MIN_PREFIX_TOKENS else 0
    layout = _Layout(rows[0].ids[:prefix])
    grids = [row_features.grid for row_features in features]
    prompts, chosen = zip(
        *(layout.add_row(row, grid, image_id) for row, grid in zip(rows, grids, strict=True)),
        strict=True,
    )
    pairs = tuple(
        (chosen[i], layout.add_rejected(rows[i], grids[i], image_id, prompts[i]))
        for i in range(len(rows))
        if rows[i].rejected
    )
    ids = np.concatenate(layout.ids).astype(np.int32)[None]
    return PackedBatch(
        ids=ids,
        positions=np.concatenate(layout.positions, axis=1)[:, None],
        feature_index=language.index_features(ids, image_id, features),
        features=tuple(features),
        attention_spans=tuple(layout.spans),
        last_layer_spans=tuple(layout.last_spans),
        target_positions=np.concatenate(layout.target_positions).astype(np.int32),
        targets=np.concatenate(layout.targets).astype(np.int32),
        weights=np.concatenate(layout.weights).astype(np.float32),
        pairs=pairs,
    )


class _Layout:
    """The parts of a packed sequence that begins with a prefix which all rows share."""

    def __init__(self, prefix: list[int]) -> None:
        self.ids: list[Sequence[int]] = [prefix]
        self.positions: list[Ints] = []
        self.shared: tuple[Span, ...] = ((0, len(prefix)),) if prefix else ()
        self.spans = [AttentionSpan(span, (span,)) for span in self.shared]
        self.last_spans: list[AttentionSpan] = []
        self.target_positions: list[Sequence[int]] = []
        self.targets: list[Sequence[int]] = []
        self.weights: list[Sequence[float]] = []
        self.end, self.num_targets = len(prefix), 0

    def add_row(self, row: Example, grid: tuple[int, int], image_id: int) -> tuple[Span, Span]:
        """Return the positions of the row's own part of the prompt, and its targets."""
        prefix, first = len(self.ids[0]), self.end
        length = len(row.ids) - 1
        mrope = language.compute_mrope_positions(length, row.ids.index(image_id), grid)
        self.positions.append(mrope[:, prefix:] if self.positions else mrope)
        keys = self._add_tokens(row.ids[prefix:-1], self.shared)
        prompt = (first, first + row.start - prefix)
        self.target_positions.append(range(prompt[1] - 1, self.end))
        return prompt, self._add_targets(row.ids[row.start :], row.weights, keys)

    def add_rejected(
        self, row: Example, grid: tuple[int, int], image_id: int, prompt: Span
    ) -> Span:
        """Return the targets; `prompt` is what `add_row` returned."""
        first, length = self.end, row.start + len(row.rejected) - 1
        mrope = language.compute_mrope_positions(length, row.ids.index(image_id), grid)
        self.positions.append(mrope[:, row.start :])
        keys = self._add_tokens(row.rejected[:-1], (*self.shared, prompt))
        self.target_positions.append([prompt[1] - 1, *range(first, self.end)])
        return self._add_targets(row.rejected, row.rejected_weights, keys)

    def _add_tokens(self, ids: Sequence[int], context: tuple[Span, ...]) -> tuple[Span, ...]:
        """Return the keys of the tokens: their context and themselves."""
        tokens = (self.end, self.end + len(ids))
        keys = (*context, tokens)
        self.ids.append(ids)
        self.spans.append(AttentionSpan(tokens, keys))
        self.end = tokens[1]
        return keys

    def _add_targets(
        self, targets: Sequence[int], weights: Sequence[float], keys: tuple[Span, ...]
    ) -> Span:
        span = (self.num_targets, self.num_targets + len(targets))
        self.last_spans.append(AttentionSpan(span, keys))
        self.targets.append(targets)
        self.weights.append(weights)
        self.num_targets = span[1]
        return span


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
