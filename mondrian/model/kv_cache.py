"""Keys and values of rows that are generated together, each at a length of its own.

One pass takes tokens of several rows side by side, of each as many as are known: linear layers see
them as one sequence, attention sees each with its own row's past. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.model.kernels import MASK_VALUE, attention

_ROOM = 256  # columns that the cache grows by
PrefixCache = list[
    tuple[mx.array, mx.array]
]  # keys and values of each layer, (1, heads, tokens, width)


@dataclass(frozen=True)
class _Layout:
    """Where one pass's tokens belong.

    token_slots, token_columns  (tokens,)  slot and column of each
    columns       that any slot uses
    has_single          whether a slot has just one token
    single_token_index         (slots,)   each slot's token, any for a slot that has none; not of
    `multi_token_slots`
    mask          (slots, columns)  hides what is not of the slot
    multi_token_slots       (slot, from, up to, columns) of slots with more than one token
    order         (tokens,)  from what the slots say, then those of `multi_token_slots`, to the
    pass's order

    alone, mask and order are None where they would change nothing.
    """

    token_slots: mx.array
    token_columns: mx.array
    columns: int
    has_single: bool
    single_token_index: mx.array | None
    mask: mx.array | None
    multi_token_slots: tuple[tuple[int, int, int, int], ...]
    order: mx.array | None


class BatchKVCache:
    """A cache of `count` rows, for a model of so many layers."""

    def __init__(self, layers: Sequence[Any], count: int) -> None:
        self.lengths = [0] * count
        self.layers = [_LayerKVCache(count) for _ in layers]

    def prepare_step(self, tokens: Sequence[int]) -> None:
        """Say how many tokens of each slot the next pass takes; 0 for one at rest."""
        before, firsts = self.lengths, np.cumsum([0, *tokens]).tolist()
        self.lengths = [n + more for n, more in zip(before, tokens, strict=True)]
        rows = np.repeat(np.arange(len(tokens)), tokens)
        places = np.concatenate(
            [np.arange(a, b) for a, b in zip(before, self.lengths, strict=True)]
        )
        several = tuple(
            (slot, first, first + count, self.lengths[slot])
            for slot, (first, count) in enumerate(zip(firsts, tokens, strict=False))
            if count > 1
        )
        columns = max(self.lengths)
        alone = mask = order = None
        has_single = 1 in tokens
        if has_single and set(self.lengths) != {columns}:
            hidden = np.arange(columns) >= np.maximum(self.lengths, 1)[:, None]
            mask = mx.array(np.where(hidden, np.float32(MASK_VALUE), np.float32(0)))
        if has_single and set(tokens) != {1}:
            alone = mx.array([f if n == 1 else 0 for f, n in zip(firsts, tokens, strict=False)])
        if (several and has_single) or 0 in tokens:
            order = _order(tokens, firsts)
        layout = _Layout(
            mx.array(rows), mx.array(places), columns, has_single, alone, mask, several, order
        )
        for layer in self.layers:
            layer.layout = layout

    def assign_slot(self, slot: int, prefix: PrefixCache | None = None) -> int:
        """Give a slot to another row, that may begin with kept tokens; how many those are."""
        self.lengths[slot] = prefix[0][0].shape[2] if prefix else 0
        for layer, kv in zip(self.layers, prefix or [], strict=False):
            layer.put(slot, kv)
        return self.lengths[slot]

    def release_slot(self, slot: int) -> None:
        """Its row has ended."""
        self.lengths[slot] = 0

    def retain_slots(self, slots: Sequence[int]) -> None:
        """Let go of all but some slots, which take the first places."""
        self.lengths = [self.lengths[slot] for slot in slots]
        chosen = mx.array(list(slots))
        for layer in self.layers:  # one after the other: two copies of one layer at most
            layer.slots = len(slots)
            if layer.keys is not None:
                layer.keys, layer.values = layer.keys[chosen], layer.values[chosen]
                mx.eval(layer.keys, layer.values)

    def widen(self, more: int) -> None:
        """So many empty slots more, behind the others."""
        self.lengths += [0] * more
        for layer in self.layers:
            layer.slots += more
            if layer.keys is not None:
                empty = mx.zeros((more, *layer.keys.shape[1:]), layer.keys.dtype)
                layer.keys = mx.concatenate([layer.keys, empty])
                layer.values = mx.concatenate([layer.values, empty])

    def export_prefix(self) -> PrefixCache:
        """Keys and values of the only slot, evaluated: a prefix for others."""
        length = self.lengths[0]
        prefix = [
            (mx.contiguous(layer.keys[:1, :, :length]), mx.contiguous(layer.values[:1, :, :length]))
            for layer in self.layers
        ]
        mx.eval(prefix)
        return prefix


def _order(tokens: Sequence[int], firsts: Sequence[int]) -> mx.array:
    """Where each token's answer stands: a place for every slot first, if any has one token."""
    order = np.zeros(firsts[-1], np.int32)
    behind = len(tokens) if 1 in tokens else 0
    for slot, count in enumerate(tokens):
        if count == 1:
            order[firsts[slot]] = slot
        elif count:
            order[firsts[slot] : firsts[slot + 1]] = np.arange(behind, behind + count)
            behind += count
    return mx.array(order)


class _LayerKVCache:
    """One decoder layer's cache; keys and values (slots, kv heads, room, width)."""

    layout: _Layout

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.keys: Any = None
        self.values: Any = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
        """Attention of one pass's tokens, (1, heads, tokens, width), each to its own row."""
        layout = self.layout
        self._make_room(k, layout.columns)
        for buffer, new in ((self.keys, k), (self.values, v)):
            buffer[layout.token_slots, :, layout.token_columns] = new[0].swapaxes(0, 1)
        outputs = []
        if layout.has_single:
            queries = q.swapaxes(0, 2)  # (tokens, heads, 1, width)
            queries = (
                queries if layout.single_token_index is None else queries[layout.single_token_index]
            )
            keys, values = (x[:, :, : layout.columns] for x in (self.keys, self.values))
            outputs.append(attention(queries, keys, values, scale, layout.mask).swapaxes(0, 2))
        for slot, first, stop, columns in layout.multi_token_slots:
            keys, values = (x[slot : slot + 1, :, :columns] for x in (self.keys, self.values))
            outputs.append(attention(q[:, :, first:stop], keys, values, scale, "causal"))
        attn_out = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)
        return attn_out if layout.order is None else attn_out[:, :, layout.order]

    def put(self, slot: int, kv: tuple[mx.array, mx.array]) -> None:
        """Let a slot begin with keys and values, (1, kv heads, tokens, width) each."""
        count = kv[0].shape[2]
        self._make_room(kv[0], count)
        self.keys[slot : slot + 1, :, :count] = kv[0]
        self.values[slot : slot + 1, :, :count] = kv[1]

    def _make_room(self, k: mx.array, count: int) -> None:
        had = self.keys.shape[2] if self.keys is not None else 0
        if count <= had:
            return
        shape = (self.slots, k.shape[1], count - had + _ROOM, k.shape[3])
        for name in ("keys", "values"):  # arrays of their own: they are written in place
            old, more = getattr(self, name), mx.zeros(shape, k.dtype)
            setattr(self, name, more if old is None else mx.concatenate([old, more], axis=2))
