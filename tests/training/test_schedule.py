from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.params import Params
from mondrian.model.streams import shard_by_length
from mondrian.training.dataset import Example
from mondrian.training.schedule import compute_learning_rate, select_micro_batches, steps_per_epoch


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_every_row_is_trained_once_per_epoch(
    params: Params, count: int, size: int, accumulation: int, epoch: int
) -> None:
    train = params.train.model_copy(
        update={"batch_size": size, "gradient_accumulation_steps": accumulation}
    )
    rows = [Example("", [i], 0, "", []) for i in range(count)]
    steps = range(steps_per_epoch(count, train))
    batches = [b for step in steps for b in select_micro_batches(rows, train, epoch, step)]
    assert all(0 < len(batch) <= size for batch in batches)
    assert Counter(e.ids[0] for b in batches for e in b) == Counter(range(count))


def test_another_epoch_has_another_order(params: Params) -> None:
    rows = list(range(20))
    first, second = (select_micro_batches(rows, params.train, epoch, 0) for epoch in (1, 2))
    assert first != second
    assert first == select_micro_batches(rows, params.train, 1, 0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 4))
def test_every_row_belongs_to_one_rank(lengths: list[int], ranks: int) -> None:
    rows = [Example("", [0] * n, 0, str(i), []) for i, n in enumerate(lengths)]
    shards = [shard_by_length(rows, rank, ranks) for rank in range(ranks)]
    assert Counter(e.photo for shard in shards for e in shard) == Counter(e.photo for e in rows)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1)])
def test_the_learning_rate_warms_up_and_decays(params: Params, schedule: Any, last: float) -> None:
    train = params.train.model_copy(update={"lr_schedule": schedule})
    rates = [compute_learning_rate(train, step, 100) for step in range(100)]
    peak = train.learning_rate
    assert rates[0] < rates[5] < rates[9] == pytest.approx(peak)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(last * peak, rel=0.15)
