"""KV cache of a batch of sequences, each at its own length.

One pass takes any number of new tokens per sequence, laid out one after the other: linear layers
see one long sequence, attention sees each token with its own sequence's past. Nothing is padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
import numpy as np

from mondrian.model.kernels import MASK_VALUE, attention

_GROWTH = 256  # columns that the cache grows by
PrefixCache = list[tuple[mx.array, mx.array]]  # a layer's keys, values (1, kv heads, tokens, width)


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of one pass belong; None if an index would change nothing."""

    token_slots: mx.array  # (tokens,) slot of each token
    token_columns: mx.array  # (tokens,) its column in the cache
    num_columns: int  # that any slot uses
    has_single: bool  # whether a slot has exactly one token
    single_token_index: mx.array | None  # (slots,) that token; arbitrary for other slots
    mask: mx.array | None  # (slots, columns) hides columns beyond a slot's length
    multi_token_slots: tuple[tuple[int, int, int, int], ...]  # slot, first token, end, columns
    output_order: mx.array | None  # (tokens,) from single, then multi-token slots, to the pass's

    @classmethod
    def build(cls, counts: Sequence[int], before: list[int], lengths: list[int]) -> Self:
        """Lay out `counts` new tokens per slot that grow slots from `before` to `lengths`."""
        firsts = np.cumsum([0, *counts]).tolist()
        columns = [np.arange(a, b) for a, b in zip(before, lengths, strict=True)]
        num_columns, has_single = max(lengths), 1 in counts
        single_token_index = mask = output_order = None
        if has_single and set(lengths) != {num_columns}:
            hidden = np.arange(num_columns) >= np.maximum(lengths, 1)[:, None]
            mask = mx.array(np.where(hidden, np.float32(MASK_VALUE), np.float32(0)))
        if has_single and set(counts) != {1}:
            single_token_index = mx.array(
                [first if n == 1 else 0 for first, n in zip(firsts, counts, strict=False)]
            )
        multi_token_slots = tuple(
            (slot, firsts[slot], firsts[slot] + count, lengths[slot])
            for slot, count in enumerate(counts)
            if count > 1
        )
        if (multi_token_slots and has_single) or 0 in counts:
            output_order = _output_order(counts, firsts)
        return cls(
            token_slots=mx.array(np.repeat(np.arange(len(counts)), counts)),
            token_columns=mx.array(np.concatenate(columns)),
            num_columns=num_columns,
            has_single=has_single,
            single_token_index=single_token_index,
            mask=mask,
            multi_token_slots=multi_token_slots,
            output_order=output_order,
        )


def _output_order(counts: Sequence[int], firsts: Sequence[int]) -> mx.array:
    """Return each token's index in the outputs: first one per slot, if any slot has one token."""
    order = np.zeros(firsts[-1], np.int32)
    end = len(counts) if 1 in counts else 0
    for slot, count in enumerate(counts):
        if count == 1:
            order[firsts[slot]] = slot
        elif count:
            order[firsts[slot] : firsts[slot + 1]] = np.arange(end, end + count)
            end += count
    return mx.array(order)


class BatchKVCache:
    """A cache of `num_slots` sequences for a model's decoder layers."""

    def __init__(self, layers: Sequence[Any], num_slots: int) -> None:
        self.lengths = [0] * num_slots
        self.layers = [_LayerKVCache(num_slots) for _ in layers]

    def prepare_step(self, counts: Sequence[int]) -> None:
        """Set how many new tokens of each slot the next pass takes."""
        before = self.lengths
        self.lengths = [length + count for length, count in zip(before, counts, strict=True)]
        layout = _Layout.build(counts, before, self.lengths)
        for layer in self.layers:
            layer.layout = layout

    def assign_slot(self, slot: int, prefix: PrefixCache | None = None) -> int:
        """Give a slot to a new sequence; return how many tokens its prefix holds."""
        length = self.lengths[slot] = prefix[0][0].shape[2] if prefix else 0
        for layer, (keys, values) in zip(self.layers, prefix or [], strict=False):
            layer.reserve(keys, length)
            layer.keys[slot : slot + 1, :, :length] = keys
            layer.values[slot : slot + 1, :, :length] = values
        return length

    def retain_slots(self, slots: Sequence[int]) -> None:
        """Drop all but some slots, which are renumbered from 0."""
        self.lengths = [self.lengths[slot] for slot in slots]
        indices = mx.array(list(slots))
        for layer in self.layers:  # one after the other: at most one layer is copied at a time
            layer.num_slots = len(slots)
            if layer.keys is not None:
                layer.keys, layer.values = layer.keys[indices], layer.values[indices]
                mx.eval(layer.keys, layer.values)

    def add_slots(self, count: int) -> None:
        self.lengths += [0] * count
        for layer in self.layers:
            layer.num_slots += count
            if layer.keys is not None:
                empty = mx.zeros((count, *layer.keys.shape[1:]), layer.keys.dtype)
                layer.keys = mx.concatenate([layer.keys, empty])
                layer.values = mx.concatenate([layer.values, empty])

    def export_prefix(self) -> PrefixCache:
        """Return the evaluated keys and values of the only slot, as a prefix for others."""
        n = self.lengths[0]
        prefix = [
            (mx.contiguous(layer.keys[:1, :, :n]), mx.contiguous(layer.values[:1, :, :n]))
            for layer in self.layers
        ]
        mx.eval(prefix)
        return prefix


class _LayerKVCache:
    """The cache of one decoder layer; keys and values (slots, kv heads, columns, width)."""

    layout: _Layout

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.keys: Any = None
        self.values: Any = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Return the attention output (1, heads, tokens, width) of one pass's tokens."""
        layout = self.layout
        self.reserve(k, layout.num_columns)
        for buffer, new in ((self.keys, k), (self.values, v)):
            buffer[layout.token_slots, :, layout.token_columns] = new[0].swapaxes(0, 1)
        outputs = []
        if layout.has_single:
            queries = q.swapaxes(0, 2)  # (tokens, heads, 1, width)
            if layout.single_token_index is not None:
                queries = queries[layout.single_token_index]
            keys, values = (x[:, :, : layout.num_columns] for x in (self.keys, self.values))
            outputs.append(attention(queries, keys, values, scale, layout.mask).swapaxes(0, 2))
        for slot, first, end, columns in layout.multi_token_slots:
            keys, values = (x[slot : slot + 1, :, :columns] for x in (self.keys, self.values))
            outputs.append(attention(q[:, :, first:end], keys, values, scale, "causal"))
        attn_out = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)
        return attn_out if layout.output_order is None else attn_out[:, :, layout.output_order]

    def reserve(self, k: mx.array, columns: int) -> None:
        """Grow the cache to at least `columns` columns."""
        old_columns = self.keys.shape[2] if self.keys is not None else 0
        if columns <= old_columns:
            return
        shape = (self.num_slots, k.shape[1], columns - old_columns + _GROWTH, k.shape[3])
        for name in ("keys", "values"):  # not one shared array: they are written in place
            old, new = getattr(self, name), mx.zeros(shape, k.dtype)
            setattr(self, name, new if old is None else mx.concatenate([old, new], axis=2))
