"""Attention for a Linux CPU, in blocks of queries, with its own gradient.

Scores exist for one block of queries at a time. The gradient keeps q, k, v, the output and the
log-sum-exp of each query, and computes the scores again (FlashAttention-2, arXiv:2307.08691,
algorithms 1 and 2). Of a short row it keeps the weights instead, before normalization. Blocks that
a causal mask would empty are skipped. Scores and log-sum-exp are in base 2. Scores are (keys,
queries), because MLX reduces over rows three times faster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from math import log
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import numpy as np

from mondrian.model.cpu.kernels import LOG2_E, power_of_two

QUERY_BLOCK_SIZE = 128  # queries of a block: small costs calls, large masked work
KEPT_SCORES = 2**20  # scores of a call up to which the gradient keeps the weights: 4 MiB
MASK_VALUE = -1e9  # added to the score of a masked key
_LN_2 = log(2)
_Tile = tuple[slice, mx.array | None]  # keys, and what is added to their scores
KeysValues = tuple[mx.array, mx.array]  # each (batch, kv heads, tokens, width)


class Past(NamedTuple):
    """What the queries of each row attend to in a KV cache."""

    keys_values: KeysValues
    mask: mx.array | None = None  # (batch, queries, keys), added to the scores
    prefix: KeysValues | None = None  # of batch 1: what all queries attend to besides; CPU only


def attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Literal["causal"] | None
) -> mx.array:
    """Return attention; arguments as in mondrian.model.kernels."""
    output: mx.array = _make_attention(scale, mask is not None)(q, k, v)[0]
    return output.swapaxes(1, 2)


def attend_cached(q: mx.array, past: Past, scale: float) -> mx.array:
    """Return attention without a gradient; arguments as in mondrian.model.kernels.

    OpenBLAS copies both matrices of a product, so the queries of all heads in a group form one
    matrix, and for the prefix the queries of all rows too.
    """
    (k, v), mask, prefix = past
    batch, kv_heads, _, width = k.shape
    queries = (q * (scale * LOG2_E)).reshape(batch, kv_heads, -1, width)
    scores = _transpose(k @ _transpose(queries))
    if mask is not None:
        by_head = scores.reshape(batch, q.shape[1], *mask.shape[1:])
        scores = (by_head + mask[:, None]).reshape(scores.shape)
    highest = scores.max(-1, keepdims=True)
    if prefix is None:
        powers = power_of_two(scores - highest)
        return (powers @ v / powers.sum(-1, keepdims=True)).reshape(q.shape)
    keys, values = prefix
    prefix_scores = _split_rows(_join_rows(queries) @ _transpose(keys), batch)
    highest = mx.maximum(highest, prefix_scores.max(-1, keepdims=True))
    powers, prefix_powers = power_of_two(scores - highest), power_of_two(prefix_scores - highest)
    norm = powers.sum(-1, keepdims=True) + prefix_powers.sum(-1, keepdims=True)
    from_prefix = _split_rows(_join_rows(prefix_powers) @ values, batch)
    return ((powers @ v + from_prefix) / norm).reshape(q.shape)


def _join_rows(x: mx.array) -> mx.array:
    """Return x (batch, kv heads, queries, width) as (1, kv heads, batch x queries, width)."""
    return x.swapaxes(0, 1).reshape(1, x.shape[1], -1, x.shape[3])


def _split_rows(x: mx.array, batch: int) -> mx.array:
    """Return what `_join_rows` returned as (batch, kv heads, queries, width) again."""
    return x.reshape(x.shape[1], batch, -1, x.shape[3]).swapaxes(0, 1)


@cache
def _make_attention(scale: float, causal: bool) -> Any:
    """Return a function of q, k, v. It returns the output (batch, queries, heads, width), the
    log-sum-exp (batch, heads, queries, 1), and nothing more or, of a short row, the norm in the
    place of the log-sum-exp and the weights of each tile before normalization."""

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
        blocks = Blocks.split(q, k, causal)
        return _attend(q * (scale * LOG2_E), mx.contiguous(k), mx.contiguous(v), blocks)

    @attend.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        q, k, v = primals
        output, d_output = outputs[0].swapaxes(1, 2), cotangents[0].swapaxes(1, 2)
        width, (lse_or_norm, *weights) = q.shape[-1], outputs[1:]
        delta = (d_output * output).sum(-1, keepdims=True)
        # An added column subtracts delta, and log-sum-exp, inside the matrix products.
        d_output = mx.concatenate([d_output, -delta], axis=-1)
        ones = mx.ones((*k.shape[:3], 1), k.dtype)
        q, v = q * (scale * LOG2_E), mx.concatenate([v, ones], axis=-1)
        if weights:
            d_output = d_output / lse_or_norm
        else:
            q, k = (mx.concatenate(x, axis=-1) for x in ([q, -lse_or_norm], [k, ones]))
        blocks = Blocks.split(q, k, causal)
        inputs = _BackwardInputs(q, mx.contiguous(k), v, d_output)
        gradients = _differentiate(inputs, blocks, weights)
        d_q, d_k, d_v = (x[..., :width] for x in gradients)
        return d_q * scale, d_k * _LN_2, d_v

    return attend


@dataclass(frozen=True)
class Blocks:
    """The blocks of queries, each with the keys that it attends to."""

    queries: int
    keys: int
    group: int  # heads that share keys
    causal: bool

    @classmethod
    def split(cls, q: mx.array, k: mx.array, causal: bool) -> "Blocks":
        return cls(q.shape[2], k.shape[2], q.shape[1] // k.shape[1], causal)

    def count_scores(self) -> int:
        """Count the scores of one head."""
        return sum((queries.stop - queries.start) * tiles[-1][0].stop for queries, tiles in self)

    def __iter__(self) -> Iterator[tuple[slice, list[_Tile]]]:
        """Yield the queries of each block and its tiles: keys of all queries, the diagonal."""
        past = self.keys - self.queries
        for start in range(0, self.queries, QUERY_BLOCK_SIZE):
            stop = min(self.queries, start + QUERY_BLOCK_SIZE)
            first = past + start if self.causal else self.keys
            tiles: list[_Tile] = [(slice(0, first), None)] if first else []
            if self.causal:
                mask = _causal_mask(stop - start, self.group)
                tiles.append((slice(first, past + stop), mask))
            yield slice(start, stop), tiles

    def select(self, x: mx.array, queries: slice) -> mx.array:
        """Return a block of x (batch, heads, queries, width) with the heads of a group as rows."""
        batch, heads, length, width = x.shape
        x = x.reshape(batch, heads // self.group, self.group, length, width)[:, :, :, queries]
        return x.reshape(batch, heads // self.group, -1, width)

    def split_heads(self, x: mx.array) -> mx.array:
        """Return what `select` returned as (batch, heads, queries, width) again."""
        batch, kv_heads, rows, width = x.shape
        return x.reshape(batch, kv_heads * self.group, rows // self.group, width)


def _attend(q: mx.array, k: mx.array, v: mx.array, blocks: Blocks) -> list[mx.array]:
    """Return what the gradient needs, the output first; see `_make_attention`."""
    keeps_weights = q.shape[0] * q.shape[1] * blocks.count_scores() <= KEPT_SCORES
    outputs: list[mx.array] = []
    lses: list[mx.array] = []  # or norms
    weights: list[mx.array] = []
    for queries, tiles in blocks:
        q = mx.depends([q], outputs[-1:])[0]  # MLX would compute all blocks at once
        q_block = blocks.select(q, queries)
        scores = [_compute_scores(q_block, k, tile) for tile in tiles]
        highest = reduce(mx.maximum, (s.max(-2, keepdims=True) for s in scores))
        powers = [power_of_two(s - highest) for s in scores]
        norm = reduce(mx.add, (p.sum(-2, keepdims=True) for p in powers))
        products = [
            _transpose(p) @ v[:, :, keys] for p, (keys, _) in zip(powers, tiles, strict=True)
        ]
        output = reduce(mx.add, products) / _transpose(norm)
        outputs.append(blocks.split_heads(output).swapaxes(1, 2))
        weights += powers if keeps_weights else []
        lse = norm if keeps_weights else highest + mx.log2(norm)
        lses.append(blocks.split_heads(_transpose(lse)))
    return [mx.concatenate(outputs, axis=1), mx.concatenate(lses, axis=2), *weights]


class _BackwardInputs(NamedTuple):
    """All have the added column; q and k do not if the weights were kept."""

    q: mx.array
    k: mx.array
    v: mx.array
    d_output: mx.array


def _differentiate(
    inputs: _BackwardInputs, blocks: Blocks, weights: list[mx.array]
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the gradients of q, k and v, with the columns of the inputs.

    From the last block to the first: no earlier query attends to the keys of a block's diagonal, so
    their gradients are complete.

    weights  of each tile before normalization; empty if they are computed again
    """
    q, k, v, d_output = inputs
    d_k, d_v = mx.zeros_like(k), mx.zeros_like(v)  # of the keys that earlier queries attend to
    d_qs: list[mx.array] = []
    complete: list[tuple[mx.array, mx.array]] = []
    for queries, tiles in reversed(list(blocks)):
        q, d_output = mx.depends([q, d_output], [d_k, d_v, *d_qs[-1:]])
        q_block, d_block = blocks.select(q, queries), blocks.select(d_output, queries)
        products: list[mx.array] = []
        d_kv = []
        block_weights, weights = weights[-len(tiles) :], weights[: -len(tiles)]
        for i, tile in enumerate(tiles):
            keys = tile[0]
            powers = (
                block_weights[i]
                if block_weights
                else power_of_two(_compute_scores(q_block, k, tile))
            )
            d_scores = powers * (v[:, :, keys] @ _transpose(d_block))
            products.append(_transpose(d_scores) @ k[:, :, keys])
            d_kv.append((d_k[:, :, keys] + d_scores @ q_block, d_v[:, :, keys] + powers @ d_block))
        d_qs.append(blocks.split_heads(reduce(mx.add, products)))
        (d_k, d_v), *diagonal = d_kv
        complete += diagonal
    complete.append((d_k, d_v))
    d_k, d_v = (
        mx.concatenate(list(parts), axis=2) for parts in zip(*reversed(complete), strict=True)
    )
    return mx.concatenate(d_qs[::-1], axis=2), d_k, d_v


def _compute_scores(q_block: mx.array, k: mx.array, tile: _Tile) -> mx.array:
    keys, mask = tile
    scores = k[:, :, keys] @ _transpose(q_block)
    return scores if mask is None else scores + mask


@lru_cache(64)
def _causal_mask(queries: int, group: int) -> mx.array:
    """Return (keys, group x queries) values that mask the keys after each query of a diagonal."""
    hidden = np.tril(np.ones((queries, queries), np.float32), -1)
    return mx.array(MASK_VALUE * np.tile(hidden, (1, group)))


def _transpose(x: mx.array) -> mx.array:
    return x.swapaxes(-1, -2)
