"""KV cache of a batch of sequences, each at its own length.

One pass takes any number of new tokens per sequence, laid out one after the other: linear layers
see one long sequence, attention sees each token with its own sequence's past. Slots with one new
token attend together, and so do those with a few, padded to the same number. On a CPU, a prefix
that all sequences share is kept once, and a pass reads it once; a long prompt gets a copy of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mondrian.model.cpu.attention import KeysValues, Past
from mondrian.model.device import DEVICE
from mondrian.model.kernels import MASK_VALUE, attend_cached, attention

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


class _Grouping:
    """Groups of a pass, and the index of each token in their outputs, which are joined.

    counts  new tokens of each slot
    before  columns that each slot uses already
    """

    def __init__(self, counts: Sequence[int], before: Sequence[int]) -> None:
        self.counts, self.before = np.array(counts), np.array(before)
        self.firsts = np.cumsum([0, *counts])[:-1]
        self.groups: list[_Group] = []
        self.order = np.zeros(sum(counts), np.int64)
        self.num_outputs = 0

    def add_single_tokens(self) -> None:
        """Add all slots, because selecting those with one token would copy keys and values."""
        is_single = self.counts == 1
        tokens = None
        if not is_single.all():
            tokens = mx.array(np.where(is_single, self.firsts, 0)[:, None])
        columns = np.where(is_single, self.before, 0)[:, None]
        self.groups.append(_Group.build(None, tokens, columns))
        self.order[self.firsts[is_single]] = np.flatnonzero(is_single)
        self.num_outputs += len(is_single)

    def add_few_tokens(self) -> None:
        """Add the slots with a few tokens; they are padded by repeating the last one."""
        slots = np.flatnonzero((self.counts > 1) & (self.counts <= _FEW_TOKENS))
        counts = self.counts[slots, None]
        query = np.arange(counts.max())
        index = np.minimum(query, counts - 1)
        tokens, is_padding = self.firsts[slots, None] + index, query >= counts
        selected = None if len(slots) == len(self.counts) else mx.array(slots)
        columns = self.before[slots, None] + index
        self.groups.append(_Group.build(selected, mx.array(tokens), columns))
        self.order[tokens[~is_padding]] = self.num_outputs + np.flatnonzero(~is_padding)
        self.num_outputs += tokens.size

    def add_prompt(self, slot: int) -> tuple[int, int, int, int]:
        """Add a slot that attends alone; return slot, first token, end, columns."""
        first, count = int(self.firsts[slot]), int(self.counts[slot])
        self.order[first : first + count] = self.num_outputs + np.arange(count)
        self.num_outputs += count
        return slot, first, first + count, int(self.before[slot]) + count

    def output_order(self) -> mx.array | None:
        is_ordered = np.array_equal(self.order, np.arange(self.num_outputs))
        return None if is_ordered else mx.array(self.order)


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of one pass belong."""

    token_slots: mx.array  # (tokens,) slot of each token
    token_columns: mx.array  # (tokens,) its column in the cache
    num_columns: int  # that any slot uses
    groups: Sequence[_Group]
    prompts: Sequence[tuple[int, int, int, int]]  # slot, first token, end, columns
    output_order: mx.array | None  # (tokens,) from groups and prompts to the pass's; None if equal

    @classmethod
    def build(cls, counts: Sequence[int], before: list[int], lengths: list[int]) -> Self:
        """Lay out `counts` new tokens per slot that grow slots from `before` to `lengths`."""
        grouping = _Grouping(counts, before)
        if 1 in counts:
            grouping.add_single_tokens()
        if any(1 < count <= _FEW_TOKENS for count in counts):
            grouping.add_few_tokens()
        long_slots = [slot for slot, count in enumerate(counts) if count > _FEW_TOKENS]
        prompts = [grouping.add_prompt(slot) for slot in long_slots]
        spans = [np.arange(a, b) for a, b in zip(before, lengths, strict=True)]
        return cls(
            token_slots=mx.array(np.repeat(np.arange(len(counts)), counts)),
            token_columns=mx.array(np.concatenate(spans)),
            num_columns=max(lengths),
            groups=grouping.groups,
            prompts=prompts,
            output_order=grouping.output_order(),
        )


class BatchKVCache:
    """A cache of `num_slots` sequences for a model's decoder layers.

    prefix  keys and values of the first tokens of all sequences
    """

    def __init__(
        self, layers: Sequence[Any], num_slots: int, prefix: PrefixCache | None = None
    ) -> None:
        self.prefix, self._shares_prefix = prefix, bool(prefix) and DEVICE.own_kernels
        self.lengths = [0] * num_slots  # without a shared prefix
        self.layers = [
            _LayerKVCache(num_slots, prefix[i] if prefix and self._shares_prefix else None)
            for i in range(len(layers))
        ]

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
        prefix = self.prefix or prefix
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
        past = Past((keys, values), group.mask, self.prefix)
        out = attend_cached(queries.swapaxes(1, 2), past, scale)
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
