"""Coverage and power of the intervals, by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.critique.rows import MIN_GROUPS
from mondrian.evaluation.score_metrics import pair_errors
from mondrian.evaluation.statistics import (
    average_by_group,
    average_pairs,
    estimate_paired_difference,
    estimate_pairing,
    estimate_proportion,
    holm,
    project_other_pairs,
    sign_flip,
)

TRIALS = 500


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
    assert 0.72 * TRIALS < detections < 0.9 * TRIALS


@pytest.mark.slow
def test_copies_of_photos_do_not_narrow_the_interval() -> None:
    rng, better, naive, trials = np.random.default_rng(9), 0, 0, TRIALS // 5
    for trial in range(trials):
        x = np.repeat(rng.normal(0, 1, 12), 6).tolist()
        groups = [name for name in group_names(12) for _ in range(6)]
        better += estimate_paired_difference(x, groups, trial).is_above_zero
        naive += estimate_paired_difference(x, group_names(72), trial).is_above_zero
    assert better <= 0.05 * trials < 0.2 * trials < naive


def test_names_and_order_of_the_groups_change_nothing() -> None:
    rng = np.random.default_rng(12)
    x, values = rng.normal(0.4, 1, 20), rng.normal(0, 1, (20, 20))
    estimates = {
        (
            estimate_paired_difference(x[order].tolist(), names).low,
            estimate_pairing(values[np.ix_(order, order)], names).p,
        )
        for order, names in (
            (np.arange(20), group_names(20)),
            (rng.permutation(20), [f"photo {i}" for i in range(20)]),
        )
    }
    assert len(estimates) == 1, estimates


def test_a_few_photos_that_differ_among_many_that_do_not_show_nothing() -> None:
    estimate = estimate_paired_difference([0.0] * 16 + [1.0, 1.1, 1.2, 1.3, 1.4], group_names(21))
    assert estimate.mean > 0
    assert estimate.p == pytest.approx(1 / 16, abs=0.01)
    assert not estimate.is_above_zero


def test_equal_answers_are_neither_better_nor_worse() -> None:
    same = estimate_paired_difference([0.0] * 20, group_names(20))
    assert (same.low, same.high, same.needed) == (0, 0, None)
    assert (same.is_above_zero, same.is_below_zero) == (False, False)
    assert same.p == 1


def test_few_photos_conclude_nothing() -> None:
    assert MIN_GROUPS == 8
    for values in ([5.0] * (MIN_GROUPS - 1), [5.0, 5.1, 4.9, 5.0, 5.2, 5.1, 5.0], [1.0]):
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


def pair_values(rng: np.random.Generator, count: int, correlation: float) -> np.ndarray:
    """Return minus the score errors of all pairs of answers and references.

    Scores of a photo share half of their variance over the seven dimensions."""
    shared, own = rng.normal(0, 1.4, (2, count, 1)), rng.normal(0, 1.4, (2, count, 7))
    references, noise = (6 + shared + own).round()
    answers = 6 + correlation * (references - 6) + (1 - correlation**2) ** 0.5 * (noise - 6)
    return -pair_errors(answers.round(), references)


@pytest.mark.slow
def test_all_pairs_notice_an_adapter_that_looks_twice_as_often_as_one_pair_each() -> None:
    rng, count = np.random.default_rng(10), 21
    names, own, next_photo = group_names(21), np.arange(21), (np.arange(21) + 10) % 21
    all_pairs = one_pair = 0
    widths = np.zeros(2)
    for trial in range(TRIALS // 4):
        values = pair_values(rng, count, 0.4)
        differences = (values[own, own] - values[own, next_photo]).tolist()
        pairing = estimate_pairing(values, names, trial)
        single = estimate_paired_difference(differences, names, trial)
        all_pairs, one_pair = all_pairs + pairing.is_above_zero, one_pair + single.is_above_zero
        widths += [pairing.high - pairing.low, single.high - single.low]
    assert one_pair < 0.5 * TRIALS / 4
    assert all_pairs > 0.7 * TRIALS / 4
    assert widths[0] < 0.75 * widths[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 12, 21])
def test_an_adapter_that_does_not_look_rarely_seems_to(count: int) -> None:
    rng, above, small_p = np.random.default_rng(11), 0, 0
    for trial in range(TRIALS // 2):
        estimate = estimate_pairing(pair_values(rng, count, 0), group_names(count), trial)
        above, small_p = above + estimate.is_above_zero, small_p + (estimate.p <= 0.05)
    assert above <= 0.05 * TRIALS / 2
    assert small_p <= 0.07 * TRIALS / 2


def test_a_critique_of_a_copy_is_not_of_another_photo() -> None:
    """The answers repeat the references of copies: without them nothing is gained."""
    names = ["a", "a", "b", "b", "c", "c"]
    values = -np.ones((6, 6))
    for i in range(0, 6, 2):
        values[i : i + 2, i : i + 2] = 0.0
    assert average_pairs(values, names).tolist() == [[0, -1, -1], [-1, 0, -1], [-1, -1, 0]]
    changed = values.copy()
    changed[0, 1] = -9.0  # the answer to a photo and the reference of its copy
    pairs = [estimate_pairing(v, names).mean for v in (values, changed)]
    assert pairs == [1, 1]


def test_the_gain_over_other_photos_by_hand() -> None:
    values = np.array([[0.0, -2, -4], [-1, -1, -3], [-2, -2, 0]])
    estimate = estimate_pairing(values, group_names(3))
    assert estimate.mean == pytest.approx((0 - 1 + 0) / 3 - (-2 - 4 - 1 - 3 - 2 - 2) / 6)
    assert project_other_pairs(values).mean() == pytest.approx(-14 / 6)
    assert estimate_pairing(values[:1, :1], ["a"]).low == -np.inf


def test_the_same_answer_to_every_photo_gains_nothing() -> None:
    references = np.random.default_rng(3).integers(1, 10, (12, 7)).astype(float)
    estimate = estimate_pairing(-pair_errors(np.full((12, 7), 5.3), references), group_names(12))
    assert estimate.mean == 0
    assert not estimate.is_above_zero
    assert estimate.p == 1


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
