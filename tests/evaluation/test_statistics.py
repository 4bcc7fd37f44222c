"""Coverage and power of the intervals, by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.evaluation.statistics import (
    MIN_GROUPS,
    average_by_group,
    estimate_paired_difference,
    estimate_proportion,
    holm,
    sign_flip,
)

TRIALS = 1000


def group_names(count: int) -> list[str]:
    return [str(i) for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [12, 20])
@pytest.mark.parametrize("kind", ["normal", "skewed", "whole numbers"])
def test_without_a_difference_better_is_rare(kind: str, count: int) -> None:
    rng = np.random.default_rng(7)
    better = 0
    for trial in range(TRIALS):
        x = {
            "normal": rng.normal(0, 1, count),
            "skewed": rng.exponential(1, count) - 1,
            "whole numbers": rng.integers(-2, 3, count).astype(float),
        }[kind]
        better += estimate_paired_difference(x.tolist(), group_names(count), trial).is_above_zero
    assert better <= 0.05 * TRIALS


def test_a_mean_that_only_rounding_made_is_no_difference() -> None:
    differences = [0.1, 0.2, -0.3, 0.1, 0.2, -0.3]
    assert sum(differences) != 0
    estimate = estimate_paired_difference(differences, group_names(6))
    assert estimate.mean == 0
    assert estimate.needed is None


def test_a_difference_that_no_number_of_photos_would_show_has_no_number() -> None:
    estimate = estimate_paired_difference([1.0, -1.0, 1.0, -1.0 + 1e-5], group_names(4))
    assert estimate.needed is None


@pytest.mark.slow
def test_the_detectable_difference_is_detected_with_the_stated_power() -> None:
    rng, count = np.random.default_rng(8), 16
    size = (
        estimate_paired_difference(rng.normal(0, 1, 4000).tolist(), group_names(4000)).detectable
        * (4000 / count) ** 0.5
    )
    detections = sum(
        estimate_paired_difference(
            (size + rng.normal(0, 1, count)).tolist(), group_names(count), trial
        ).is_above_zero
        for trial in range(TRIALS)
    )
    assert 0.74 * TRIALS < detections < 0.9 * TRIALS


@pytest.mark.slow
def test_copies_of_photos_do_not_narrow_the_interval() -> None:
    rng, better, naive = np.random.default_rng(9), 0, 0
    for trial in range(TRIALS):
        x = np.repeat(rng.normal(0, 1, 12), 6).tolist()
        groups = [name for name in group_names(12) for _ in range(6)]
        better += estimate_paired_difference(x, groups, trial).is_above_zero
        naive += estimate_paired_difference(x, group_names(72), trial).is_above_zero
    assert better <= 0.05 * TRIALS < naive


def test_equal_answers_are_neither_better_nor_worse() -> None:
    same = estimate_paired_difference([0.0] * 20, group_names(20))
    assert (same.low, same.high, same.needed) == (0, 0, None)
    assert (same.is_above_zero, same.is_below_zero) == (False, False)
    assert same.p == 1


def test_few_photos_conclude_nothing() -> None:
    for values in ([5.0] * (MIN_GROUPS - 1), [5.0, 5.1, 4.9, 5.0], [1.0]):
        estimate = estimate_paired_difference(values, group_names(len(values)))
        assert not estimate.is_above_zero
        assert not estimate.is_below_zero
    assert estimate_paired_difference([5.0] * MIN_GROUPS, group_names(MIN_GROUPS)).is_above_zero


def test_a_small_difference_needs_more_photos() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, 20)
    noise -= noise.mean()
    small, large = (
        estimate_paired_difference((d + noise).tolist(), group_names(20)) for d in (0.1, 1.0)
    )
    assert small.needed is not None
    assert large.needed is not None
    assert small.needed > 200 > 20 > large.needed
    assert small.detectable == pytest.approx(large.detectable)
    assert 0.3 < small.detectable < 0.5


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_an_interval_contains_its_mean_and_flips_with_the_sign(values: list[float]) -> None:
    estimate, flipped = (
        estimate_paired_difference([sign * v for v in values], group_names(len(values)))
        for sign in (1, -1)
    )
    assert estimate.low <= estimate.mean + 1e-9
    assert estimate.mean <= estimate.high + 1e-9
    assert estimate.mean == pytest.approx(-flipped.mean)
    assert 0 < estimate.p <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_keeps_the_order_and_never_lowers(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_known_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert sign_flip(np.ones(5)) == 2 / 32
    assert sign_flip(np.ones(30)) < 0.001
    assert estimate_proportion(0, 0)[1:] == (0, 1)
    assert estimate_proportion(20, 20)[1] == pytest.approx(0.8316, abs=1e-4)
    assert average_by_group([1, 3, 8], ["b", "b", "a"]).tolist() == [8, 2]
