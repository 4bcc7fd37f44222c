"""How often numbers that are looked at after every job decide wrongly, and how soon rightly."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    MIN_PER_ARM,
    TIGHTEST_SAMPLE_SIZE,
    Band,
    Bools,
    difference_band,
    mean_band,
    paired_band,
    share_band,
)
from mondrian.rollout.sample_ratio import MISMATCH_LEVEL, mismatch_e_values

EXPERIMENTS, LOOKS = 1000, 2000
SIZE = (EXPERIMENTS, LOOKS)
WRONG = 1 - CONFIDENCE_LEVEL
EVEN = np.full(LOOKS, 0.5)
STEPS = np.repeat([0.05, 0.25, 0.5], [300, 600, LOOKS - 900])
SLOW = pytest.param("exponential", marks=pytest.mark.slow)
KINDS = ["normal", SLOW, "lognormal", "thumbs", "approval"]
SOME = st.lists(st.integers(-20, 20), min_size=1, max_size=60)


def drawn(kind: str, draw: np.random.Generator) -> FloatArray:
    """Outcomes that do not depend on the arm: (experiments, looks)."""
    if kind == "thumbs":
        return draw.choice([-1.0, 0.0, 1.0], SIZE, p=[0.1, 0.4, 0.5])
    if kind == "approval":
        return (draw.random(SIZE) < 0.9).astype(float)
    if kind == "lognormal":
        return draw.lognormal(size=SIZE)
    return draw.standard_normal(SIZE) if kind == "normal" else draw.standard_exponential(SIZE)


def dealt(
    share: FloatArray, draw: np.random.Generator, odds: float = 1
) -> tuple[Bools, FloatArray]:
    """Assignments with odds so many times those of the share, and the share on record."""
    return draw.random(SIZE) < share * odds / (1 - share + share * odds), np.broadcast_to(
        share, SIZE
    )


def decided(band: Band, truth: float = 0) -> float:
    """Share of experiments whose band leaves out the truth at any look."""
    return float(((band.low > truth) | (band.high < truth)).any(-1).mean())


def first(found: Bools) -> FloatArray:
    """Observations until it was found; infinite where it was not."""
    out: FloatArray = np.where(found.any(-1), found.argmax(-1) + 1.0, np.inf)
    return out


@pytest.mark.parametrize("share", [EVEN, STEPS], ids=["even", "steps"])
@pytest.mark.parametrize("kind", KINDS)
def test_arms_that_do_not_differ_are_seldom_told_apart(kind: str, share: FloatArray) -> None:
    draw = np.random.default_rng(1)
    span = 1.0 if kind == "approval" else 0.0
    assert decided(difference_band(drawn(kind, draw), *dealt(share, draw), span=span)) <= WRONG


@pytest.mark.parametrize("trait", ["candidate spreads more", "control spreads more", "trend"])
def test_nor_where_arms_spread_otherwise_or_times_change(trait: str) -> None:
    draw = np.random.default_rng(2)
    values, (new, share) = drawn("normal", draw), dealt(STEPS, draw)
    wide = {"candidate spreads more": new, "control spreads more": ~new}
    values *= np.where(wide.get(trait, False), 3.0, 1.0)
    if trait == "trend":
        values += 0.003 * np.arange(LOOKS)
    assert decided(difference_band(values, new, share)) <= WRONG


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_that_do_not_differ_are_seldom_told_apart(kind: str) -> None:
    draw = np.random.default_rng(3)
    assert decided(paired_band(drawn(kind, draw), drawn(kind, draw))) <= WRONG


@pytest.mark.parametrize(("kind", "truth"), [("normal", 0.0), ("exponential", 1.0)])
def test_a_mean_stays_in_its_band(kind: str, truth: float) -> None:
    assert decided(mean_band(drawn(kind, np.random.default_rng(4))), truth) <= WRONG


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_share_stays_in_its_band(share: float) -> None:
    assert decided(share_band(np.random.default_rng(5).random(SIZE) < share), share) <= WRONG


def test_an_interval_for_one_look_would_be_wrong_in_every_fifth_experiment() -> None:
    values = drawn("normal", np.random.default_rng(6))
    count = np.arange(1, LOOKS + 1)
    mean = np.cumsum(values, -1) / count
    margin = 1.96 / np.sqrt(count)
    assert decided(Band(mean, mean - margin, mean + margin)) > 0.2


def test_a_difference_of_three_tenths_is_found_within_300_jobs_an_arm() -> None:
    draw = np.random.default_rng(7)
    values, (new, share) = drawn("normal", draw), dealt(EVEN, draw)
    jobs = np.median(first(difference_band(values + 0.3 * new, new, share).low > 0)) / 2
    pairs = np.median(first(paired_band(values + 0.3, np.zeros(SIZE)).low > 0))
    assert jobs <= 200
    assert pairs <= 130


def test_steps_of_another_share_are_pooled_by_what_they_tell() -> None:
    draw = np.random.default_rng(8)
    values, (new, share) = drawn("normal", draw), dealt(STEPS, draw)
    band = difference_band(values + 0.3 * new, new, share)
    assert np.mean(band.mean[:, -1]) == pytest.approx(0.3, abs=0.01)
    least = 2 / np.sqrt(np.sum(4 * STEPS * (1 - STEPS)))  # of any unbiased estimate
    assert np.std(band.mean[:, -1]) < 1.05 * least


@pytest.mark.parametrize("share", [EVEN, STEPS], ids=["even", "steps"])
def test_a_fair_deal_seldom_alarms(share: FloatArray) -> None:
    alarms = (mismatch_e_values(*dealt(share, np.random.default_rng(9))) >= 1 / MISMATCH_LEVEL).any(
        -1
    )
    assert alarms.mean() <= MISMATCH_LEVEL


@pytest.mark.parametrize(
    ("share", "odds", "within"),
    [(EVEN, 9 / 11, 500), (EVEN, 11 / 9, 500), (EVEN, 0.5, 80), (STEPS, 0.5, 400), (STEPS, 2, 280)],
)
def test_a_mismatch_is_found(share: FloatArray, odds: float, within: int) -> None:
    new, recorded = dealt(share, np.random.default_rng(10), odds)
    found = mismatch_e_values(new[:, :within], recorded[:, :within]) >= 1 / MISMATCH_LEVEL
    assert found.any(-1).mean() >= 0.5


@pytest.mark.parametrize("limit", [0.95, 0.9])
def test_a_harmful_adapter_is_condemned_within_60_jobs_and_a_good_one_seldom(limit: float) -> None:
    chance = np.random.default_rng(11).random((EXPERIMENTS, 500))
    harmful, good = (share_band(chance < compliance).high < limit for compliance in (0.6, 0.97))
    assert harmful[:, :60].any(-1).mean() >= 0.99
    assert np.median(first(harmful)) <= 15
    assert good.any(-1).mean() <= WRONG


def test_slow_jobs_are_told_from_jobs_at_the_limit() -> None:
    chance = np.random.default_rng(12).random((EXPERIMENTS, 500))
    at_limit, slow = (share_band(chance < beyond).low > 0.05 for beyond in (0.05, 0.2))
    assert at_limit.any(-1).mean() <= WRONG
    assert np.median(first(slow)) <= 40


def test_nothing_is_known_of_few() -> None:
    few = 2 * MIN_PER_ARM
    values, half = np.tile([0.0, 1.0], MIN_PER_ARM), np.full(few, 0.5)
    for band in (
        mean_band(values[:8]),
        difference_band(values, np.zeros(few, bool), half),
        difference_band(values, np.arange(few) < MIN_PER_ARM - 1, half),
    ):
        assert (band.last.low, band.last.high) == (-np.inf, np.inf)


def test_values_that_never_varied_need_a_span() -> None:
    same, new, half = np.ones(200), np.arange(200) % 2 == 0, np.full(200, 0.5)
    for unknown in (mean_band(same), paired_band(same, same), difference_band(same, new, half)):
        assert (unknown.last.low, unknown.last.high) == (-np.inf, np.inf)
    spanned = difference_band(same, new, half, span=1).last
    assert spanned.mean == 0
    assert 0.01 < spanned.high < 0.1


def test_a_young_candidate_that_happens_to_agree_is_not_yet_better() -> None:
    approved = np.tile([1.0] * 8 + [0.0, 1.0], 20)
    new = np.arange(200) % 25 == 0
    assert approved[new].all()
    assert difference_band(approved, new, np.full(200, 0.05)).last.low < 0


def test_no_observations_are_an_open_interval() -> None:
    none, nobody = np.empty(0), np.empty(0, bool)
    for band in (
        mean_band(none),
        paired_band(none, none),
        share_band(nobody),
        difference_band(none, nobody, none),
    ):
        assert np.isnan(band.last.mean)
        assert (band.last.low, band.last.high, band.last.count) == (-np.inf, np.inf, 0)
    assert mismatch_e_values(nobody, none).shape == (0,)


def test_what_was_not_dealt_by_lot_is_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="not dealt by lot"):
            difference_band(np.ones(3), np.ones(3, bool), np.full(3, share))
        with pytest.raises(ValueError, match="not dealt by lot"):
            mismatch_e_values(np.ones(3, bool), np.full(3, share))
    with pytest.raises(AssertionError):
        mean_band(np.array([1.0, np.nan]))


@settings(deadline=None)  # a busy machine is no fault
@given(SOME, st.randoms(use_true_random=False))
def test_a_band_holds_its_estimate_and_turns_with_its_sign(
    numbers: list[int], chance: Random
) -> None:
    values = np.array(numbers, float)
    new = np.array([chance.random() < 0.5 for _ in numbers])
    half = np.full(len(numbers), 0.5)
    for one, other in (
        (mean_band(values), mean_band(-values)),
        (difference_band(values, new, half), difference_band(values, ~new, half)),
        (difference_band(values, new, half), difference_band(7 - values, new, half)),
    ):
        known = ~np.isnan(one.mean)
        assert np.all(one.low[known] <= one.mean[known])
        assert np.all(one.mean[known] <= one.high[known])
        assert one.low == pytest.approx(-other.high)
        assert one.mean == pytest.approx(-other.mean, nan_ok=True)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_share_is_in_its_band_and_both_are_within_0_and_1(successes: list[bool]) -> None:
    band, other = share_band(np.array(successes)), share_band(~np.array(successes))
    assert np.all((band.low >= 0) & (band.low <= band.mean))
    assert np.all((band.mean <= band.high) & (band.high <= 1))
    assert band.low == pytest.approx(1 - other.high)


def test_the_ends_of_a_share_are_where_the_martingale_reaches_its_bound() -> None:
    successes = np.random.default_rng(13).random(5000) < 0.97
    band, good, count = share_band(successes), np.cumsum(successes), np.arange(1, 5001)
    step = (
        good - successes + 0.5
    ) / count  # next success, as the mixture of the jobs before has it
    mixed = np.cumsum(np.log(np.where(successes, step, 1 - step)))
    for end in (band.low, band.high):
        inner = (end > 0) & (end < 1)
        p = end[inner]
        true = good[inner] * np.log(p) + (count - good)[inner] * np.log1p(-p)
        assert inner.sum() > 4900
        assert mixed[inner] - true == pytest.approx(np.log(20), abs=1e-6)


def test_the_mean_is_the_tightest_for_its_number_at_the_number_it_was_tuned_for() -> None:
    values = np.tile([-1.0, 1.0], LOOKS)
    at = TIGHTEST_SAMPLE_SIZE - 1
    margins = [mean_band(values, tuned_for=n).high[at] for n in (50, TIGHTEST_SAMPLE_SIZE, 2000)]
    assert min(margins) == margins[1]
    assert margins[1] == pytest.approx(3.05 / np.sqrt(TIGHTEST_SAMPLE_SIZE), rel=0.03)


def test_each_look_depends_on_what_came_before_alone() -> None:
    draw = np.random.default_rng(14)
    values, new, share = draw.normal(size=400), draw.random(400) < 0.4, np.full(400, 0.4)
    whole, part = (difference_band(values[:n], new[:n], share[:n]) for n in (400, 250))
    assert whole.low[:250] == pytest.approx(part.low)
    assert mismatch_e_values(new, share)[:250] == pytest.approx(
        mismatch_e_values(new[:250], share[:250])
    )
