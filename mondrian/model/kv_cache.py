"""KV cache of a batch of sequences, each at its own length.

One pass takes any number of new tokens per sequence, laid out one after the other: linear layers
see one long sequence, attention sees each token with its own sequence's past. Slots with one new
token attend together, and so do those with a few, padded to the same number. On a CPU, a prefix
that all sequences share is kept, and read by a pass, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mondrian.model.device import DEVICE
from mondrian.model.kernels import MASK_VALUE, KeysValues, attend_cached, attention

_GROWTH = 256  # columns that the cache grows by
_FEW_TOKENS = 64  # new tokens up to which slots attend together; a longer prompt does so alone
PrefixCache = list[KeysValues]  # of each layer, (1, kv heads, tokens, width)


@dataclass(frozen=True)
class _Group:
    """Slots that attend together; None if an index or a mask would change nothing."""

    slots: mx.array | None  # (group,)
    tokens: mx.array | None  # (group, queries) index among the tokens of the pass
    mask: mx.array | None  # (group, queries, columns) hides columns after a token's own
    num_columns: int

    @classmethod
    def build(
        cls, slots: mx.array | None, tokens: mx.array | None, columns: NDArray[np.int64]
    ) -> Self:
        """Group slots whose tokens stand in `columns`, (group, queries)."""
        num_columns = int(columns.max()) + 1
        hidden = np.arange(num_columns) > columns[..., None]
        mask = None
        if hidden.any():
            mask = mx.array(np.where(hidden, np.float32(MASK_VALUE), np.float32(0)))
        return cls(slots, tokens, mask, num_columns)


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of one pass belong."""

    token_slots: mx.array  # (tokens,) slot of each token
    token_columns: mx.array  # (tokens,) its column in the cache
    num_columns: int  # that any slot uses
    groups: tuple[_Group, ...]
    prompts: tuple[tuple[int, int, int, int], ...]  # slot, first token, end, columns
    output_order: mx.array | None  # (tokens,) from groups and prompts to the pass's; None if equal

    @classmethod
    def build(cls, counts: Sequence[int], before: list[int], lengths: list[int]) -> Self:
        """Lay out `counts` new tokens per slot that grow slots from `before` to `lengths`."""
        firsts, starts = np.cumsum([0, *counts])[:-1], np.array(before)
        groups: list[_Group] = []
        order = np.zeros(sum(counts), np.int64)
        num_outputs = 0
        if 1 in counts:  # all slots: selecting some would copy their keys and values
            is_single = np.array([count == 1 for count in counts])
            tokens = None if is_single.all() else mx.array(np.where(is_single, firsts, 0)[:, None])
            columns = np.where(is_single, starts, np.maximum(lengths, 1) - 1)
            groups.append(_Group.build(None, tokens, columns[:, None]))
            order[firsts[is_single]] = np.flatnonzero(is_single)
            num_outputs = len(counts)
        if few := [slot for slot, count in enumerate(counts) if 1 < count <= _FEW_TOKENS]:
            few_counts = np.array([counts[slot] for slot in few])[:, None]
            query = np.arange(few_counts.max())
            index = np.minimum(query, few_counts - 1)  # padded by repeating the last token
            tokens = firsts[few][:, None] + index
            group = _Group.build(mx.array(few), mx.array(tokens), starts[few][:, None] + index)
            groups.append(group)
            is_padding = query >= few_counts
            order[tokens[~is_padding]] = num_outputs + np.flatnonzero(~is_padding)
            num_outputs += tokens.size
        prompts = []
        for slot, count in enumerate(counts):
            if count > _FEW_TOKENS:
                first = int(firsts[slot])
                prompts.append((slot, first, first + count, lengths[slot]))
                order[first : first + count] = num_outputs + np.arange(count)
                num_outputs += count
        is_ordered = num_outputs == len(order) and bool((order == np.arange(num_outputs)).all())
        spans = [np.arange(a, b) for a, b in zip(before, lengths, strict=True)]
        return cls(
            token_slots=mx.array(np.repeat(np.arange(len(counts)), counts)),
            token_columns=mx.array(np.concatenate(spans)),
            num_columns=max(lengths),
            groups=tuple(groups),
            prompts=tuple(prompts),
            output_order=None if is_ordered else mx.array(order),
        )


class BatchKVCache:
    """A cache of `num_slots` sequences for a model's decoder layers.

    prefix  keys and values of the first tokens of all sequences
    """

    def __init__(
        self, layers: Sequence[Any], num_slots: int, prefix: PrefixCache | None = None
    ) -> None:
        self.prefix, self._shares_prefix = prefix, DEVICE.own_kernels and prefix is not None
        self.lengths = [0] * num_slots  # without a shared prefix
        shared = prefix if prefix and self._shares_prefix else [None] * len(layers)
        self.layers = [_LayerKVCache(num_slots, of_layer) for of_layer in shared]

    def prepare_step(self, counts: Sequence[int]) -> None:
        """Set how many new tokens of each slot the next pass takes."""
        before = self.lengths
        self.lengths = [length + count for length, count in zip(before, counts, strict=True)]
        layout = _Layout.build(counts, before, self.lengths)
        for layer in self.layers:
            layer.layout = layout

    def assign_slot(self, slot: int, prefix: PrefixCache | None = None) -> int:
        """Give a slot to a new sequence; return how many tokens its prefix holds.

        prefix  of this sequence, if none was given for all
        """
        prefix = prefix or self.prefix
        length = prefix[0][0].shape[2] if prefix else 0
        self.lengths[slot] = 0 if self._shares_prefix else length
        if not self._shares_prefix:
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

    def __init__(self, num_slots: int, prefix: KeysValues | None = None) -> None:
        self.num_slots, self.prefix = num_slots, prefix
        self.keys: Any = None
        self.values: Any = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Return the attention output (1, heads, tokens, width) of one pass's tokens."""
        layout = self.layout
        self.reserve(k, layout.num_columns)
        for buffer, new in ((self.keys, k), (self.values, v)):
            buffer[layout.token_slots, :, layout.token_columns] = new[0].swapaxes(0, 1)
        outputs = [self._attend_group(q, scale, group) for group in layout.groups]
        for slot, first, end, columns in layout.prompts:
            keys, values = (x[slot : slot + 1, :, :columns] for x in (self.keys, self.values))
            if self.prefix:
                keys = mx.concatenate([self.prefix[0], keys], axis=2)
                values = mx.concatenate([self.prefix[1], values], axis=2)
            outputs.append(attention(q[:, :, first:end], keys, values, scale, "causal"))
        attn_out = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)
        return attn_out if layout.output_order is None else attn_out[:, :, layout.output_order]

    def _attend_group(self, q: mx.array, scale: float, group: _Group) -> mx.array:
        """Return the outputs (1, heads, slots x queries, width) of a group."""
        by_token = q[0].swapaxes(0, 1)
        queries = by_token[:, None] if group.tokens is None else by_token[group.tokens]
        keys, values = (
            (x if group.slots is None else x[group.slots])[:, :, : group.num_columns]
            for x in (self.keys, self.values)
        )
        queries = queries.swapaxes(1, 2)
        out = attend_cached(queries, keys, values, scale, group.mask, self.prefix)
        return out.swapaxes(0, 1).reshape(1, q.shape[1], -1, q.shape[3])

    def reserve(self, k: mx.array, columns: int) -> None:
        """Grow the cache to at least `columns` columns."""
        old_columns = self.keys.shape[2] if self.keys is not None else 0
        if columns <= old_columns:
            return
        shape = (self.num_slots, k.shape[1], columns - old_columns + _GROWTH, k.shape[3])
        for name in ("keys", "values"):  # not one shared array: they are written in place
            old, new = getattr(self, name), mx.zeros(shape, k.dtype)
            setattr(self, name, new if old is None else mx.concatenate([old, new], axis=2))
