"""Sequences that share a KV cache compared with each on its own."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.model.kernels import attention
from mondrian.model.kv_cache import BatchKVCache

HEADS, KV_HEADS, WIDTH, SLOTS = 4, 2, 8, 3
COUNTS = st.one_of(st.integers(0, 4), st.integers(63, 66))  # up to 64 are padded
STEPS = st.lists(
    st.lists(COUNTS, min_size=SLOTS, max_size=SLOTS).filter(any), min_size=1, max_size=8
)


def random_vectors(rng: Any, heads: int, tokens: int) -> mx.array:
    return mx.array(rng.standard_normal((1, heads, tokens, WIDTH)).astype(np.float32))


@pytest.mark.device
@given(STEPS, st.integers(0, 5), st.booleans())
@settings(max_examples=60)
def test_each_slot_attends_to_its_own_sequence_only(
    steps: list[list[int]], shared: int, is_given_once: bool
) -> None:
    rng = np.random.default_rng(7)
    prefix = None
    if shared:
        prefix = [(random_vectors(rng, KV_HEADS, shared), random_vectors(rng, KV_HEADS, shared))]
    cache = BatchKVCache([None], SLOTS, prefix if is_given_once else None)
    for slot in range(SLOTS):
        assert cache.assign_slot(slot, None if is_given_once else prefix) == shared
    pasts = [list(prefix[0]) if prefix else None for _ in range(SLOTS)]
    for counts in steps:
        cache.prepare_step(counts)
        q, k, v = (random_vectors(rng, n, sum(counts)) for n in (HEADS, KV_HEADS, KV_HEADS))
        attn_out = cache.layers[0].attend(q, k, v, 0.3)
        first = 0
        for slot, count in enumerate(counts):
            if not count:
                continue
            span, past = slice(first, first + count), pasts[slot]
            new = [x[:, :, span] for x in (k, v)]
            keys, values = (
                [mx.concatenate(list(pair), 2) for pair in zip(past, new, strict=True)]
                if past
                else new
            )
            expected = attention(q[:, :, span], keys, values, 0.3, "causal")
            np.testing.assert_allclose(
                np.array(attn_out[:, :, span]), np.array(expected), atol=1e-5
            )
            pasts[slot], first = [keys, values], first + count


@pytest.mark.device
@pytest.mark.parametrize("shared", [0, 3])
def test_released_slots_are_reused_by_other_sequences(shared: int) -> None:
    rng = np.random.default_rng(1)
    before = [random_vectors(rng, KV_HEADS, shared) for _ in range(2)]
    cache = BatchKVCache([None], 3, [(before[0], before[1])] if shared else None)
    for slot in range(3):
        cache.assign_slot(slot)
    cache.prepare_step([4, 2, 5])
    q, k, v = (random_vectors(rng, n, 11) for n in (HEADS, KV_HEADS, KV_HEADS))
    cache.layers[0].attend(q, k, v, 0.3)
    cache.retain_slots([2])
    cache.add_slots(1)
    assert cache.assign_slot(1) == shared
    cache.prepare_step([1, 2])
    q, new_k, new_v = (random_vectors(rng, n, 3) for n in (HEADS, KV_HEADS, KV_HEADS))
    attn_out = cache.layers[0].attend(q, new_k, new_v, 0.3)
    old_and_new = list(zip(before, (k, v), (new_k, new_v), strict=True))
    third = [[first, old[:, :, 6:], new[:, :, :1]] for first, old, new in old_and_new]
    fourth = [[first, new[:, :, 1:]] for first, _, new in old_and_new]
    for parts, span in ((third, slice(0, 1)), (fourth, slice(1, 3))):
        keys, values = (mx.concatenate(part, 2) for part in parts)
        expected = attention(q[:, :, span], keys, values, 0.3, "causal")
        np.testing.assert_allclose(np.array(attn_out[:, :, span]), np.array(expected), atol=1e-5)
