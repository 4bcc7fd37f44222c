"""Rows side by side in one cache against each row alone."""

from typing import Any

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.model.kernels import attention
from mondrian.model.kv_cache import BatchKVCache

HEADS, GROUPS, WIDTH, SLOTS = 4, 2, 8, 3
STEPS = st.lists(
    st.lists(st.integers(0, 4), min_size=SLOTS, max_size=SLOTS).filter(any), min_size=1, max_size=8
)


def drawn(draw: Any, heads: int, tokens: int) -> mx.array:
    return mx.array(draw.standard_normal((1, heads, tokens, WIDTH)).astype(np.float32))


@given(STEPS, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_each_slot_attends_to_its_own_row_alone(steps: list[list[int]], shared: int) -> None:
    draw = np.random.default_rng(7)
    prefix = [(drawn(draw, GROUPS, shared), drawn(draw, GROUPS, shared))] if shared else None
    slots = BatchKVCache([None], SLOTS)
    for slot in range(SLOTS):
        slots.assign_slot(slot, prefix)
    pasts = [list(prefix[0]) if prefix else None for _ in range(SLOTS)]
    for tokens in steps:
        slots.prepare_step(tokens)
        q, k, v = (drawn(draw, n, sum(tokens)) for n in (HEADS, GROUPS, GROUPS))
        told = slots.layers[0].attend(q, k, v, 0.3)
        first = 0
        for slot, count in enumerate(tokens):
            if not count:
                continue
            own, past = slice(first, first + count), pasts[slot]
            new = [x[:, :, own] for x in (k, v)]
            seen = (
                [mx.concatenate(list(pair), 2) for pair in zip(past, new, strict=True)]
                if past
                else new
            )
            alone = attention(q[:, :, own], seen[0], seen[1], 0.3, "causal")
            np.testing.assert_allclose(np.array(told[:, :, own]), np.array(alone), atol=1e-5)
            pasts[slot], first = seen, first + count


def test_slots_are_let_go_of_and_given_to_another_row() -> None:
    draw = np.random.default_rng(1)
    slots = BatchKVCache([None], 3)
    slots.prepare_step([4, 2, 5])
    q, k, v = (drawn(draw, n, 11) for n in (HEADS, GROUPS, GROUPS))
    slots.layers[0].attend(q, k, v, 0.3)
    slots.retain_slots([2])
    slots.widen(1)
    slots.assign_slot(1)
    slots.prepare_step([1, 2])
    q, more, other = (drawn(draw, n, 3) for n in (HEADS, GROUPS, GROUPS))
    told = slots.layers[0].attend(q, more, other, 0.3)
    went_on = [mx.concatenate([a[:, :, 6:], b[:, :, :1]], 2) for a, b in ((k, more), (v, other))]
    fresh = [x[:, :, 1:] for x in (more, other)]
    for got, wanted in (
        (told[:, :, :1], attention(q[:, :, :1], went_on[0], went_on[1], 0.3, None)),
        (told[:, :, 1:], attention(q[:, :, 1:], fresh[0], fresh[1], 0.3, "causal")),
    ):
        np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5)
