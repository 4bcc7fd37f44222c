"""Error rates and speed of statistics that are checked after every job, by simulation."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.fields import FloatArray
from mondrian.rollout.confidence_sequences import (
    CONFIDENCE_LEVEL,
    MIN_PER_ARM,
    MISMATCH_LEVEL,
    TIGHTEST_SAMPLE_SIZE,
    Band,
    BoolArray,
    difference_band,
    mean_band,
    mismatch_e_values,
    paired_band,
    share_band,
)

EXPERIMENTS, LOOKS = 1000, 2000
SIZE = (EXPERIMENTS, LOOKS)
ERROR_RATE = 1 - CONFIDENCE_LEVEL
EVEN = np.full(LOOKS, 0.5)
STEPS = np.repeat([0.05, 0.25, 0.5], [300, 600, LOOKS - 900])
SLOW = pytest.param("exponential", marks=pytest.mark.slow)
KINDS = ["normal", SLOW, "lognormal", "thumbs", "approval"]
INTEGERS = st.lists(st.integers(-20, 20), min_size=1, max_size=60)
UNKNOWN = (-np.inf, np.inf)


def simulate_outcomes(kind: str, rng: np.random.Generator) -> FloatArray:
    """Return outcomes that do not depend on the arm: (experiments, looks)."""
    if kind == "thumbs":
        return rng.choice([-1.0, 0.0, 1.0], SIZE, p=[0.1, 0.4, 0.5])
    if kind == "approval":
        return (rng.random(SIZE) < 0.9).astype(float)
    if kind == "lognormal":
        return rng.lognormal(size=SIZE)
    return rng.standard_normal(SIZE) if kind == "normal" else rng.standard_exponential(SIZE)


def assign(
    share: FloatArray, rng: np.random.Generator, odds: float = 1
) -> tuple[BoolArray, FloatArray]:
    """Return assignments with `odds` times the odds of the share, and the recorded share."""
    candidate = rng.random(SIZE) < share * odds / (1 - share + share * odds)
    return candidate, np.broadcast_to(share, SIZE)


def exclusion_rate(band: Band, truth: float = 0) -> float:
    """Return the share of experiments in which the band excludes the truth at any look."""
    return float(((band.low > truth) | (band.high < truth)).any(-1).mean())


def first_look(detected: BoolArray) -> FloatArray:
    """Return the observations until detection; infinite if there is none."""
    looks: FloatArray = np.where(detected.any(-1), detected.argmax(-1) + 1.0, np.inf)
    return looks


@pytest.mark.parametrize("share", [EVEN, STEPS], ids=["even", "steps"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_arms_are_rarely_called_different(kind: str, share: FloatArray) -> None:
    rng = np.random.default_rng(1)
    span = 1.0 if kind == "approval" else 0.0
    band = difference_band(simulate_outcomes(kind, rng), *assign(share, rng), span=span)
    assert exclusion_rate(band) <= ERROR_RATE


@pytest.mark.parametrize("trait", ["candidate spreads more", "control spreads more", "trend"])
def test_equal_arms_with_unequal_spread_or_a_trend_are_rarely_called_different(trait: str) -> None:
    rng = np.random.default_rng(2)
    values, (candidate, share) = simulate_outcomes("normal", rng), assign(STEPS, rng)
    wide = {"candidate spreads more": candidate, "control spreads more": ~candidate}
    values *= np.where(wide.get(trait, False), 3.0, 1.0)
    if trait == "trend":
        values += 0.003 * np.arange(LOOKS)
    assert exclusion_rate(difference_band(values, candidate, share)) <= ERROR_RATE


@pytest.mark.parametrize("kind", KINDS)
def test_equal_pairs_are_rarely_called_different(kind: str) -> None:
    rng = np.random.default_rng(3)
    band = paired_band(simulate_outcomes(kind, rng), simulate_outcomes(kind, rng))
    assert exclusion_rate(band) <= ERROR_RATE


@pytest.mark.parametrize(("kind", "truth"), [("normal", 0.0), ("exponential", 1.0)])
def test_a_mean_stays_in_its_band(kind: str, truth: float) -> None:
    values = simulate_outcomes(kind, np.random.default_rng(4))
    assert exclusion_rate(mean_band(values), truth) <= ERROR_RATE


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_share_stays_in_its_band(share: float) -> None:
    successes = np.random.default_rng(5).random(SIZE) < share
    assert exclusion_rate(share_band(successes), share) <= ERROR_RATE


def test_a_fixed_size_interval_would_be_wrong_in_every_fifth_experiment() -> None:
    values = simulate_outcomes("normal", np.random.default_rng(6))
    count = np.arange(1, LOOKS + 1)
    mean = np.cumsum(values, -1) / count
    margin = 1.96 / np.sqrt(count)
    assert exclusion_rate(Band(mean, mean - margin, mean + margin)) > 0.2


def test_a_difference_of_three_tenths_is_detected_within_300_jobs_per_arm() -> None:
    rng = np.random.default_rng(7)
    values, (candidate, share) = simulate_outcomes("normal", rng), assign(EVEN, rng)
    detected = difference_band(values + 0.3 * candidate, candidate, share).low > 0
    jobs_per_arm = np.median(first_look(detected)) / 2
    pairs = np.median(first_look(paired_band(values + 0.3, np.zeros(SIZE)).low > 0))
    assert jobs_per_arm <= 200
    assert pairs <= 130


def test_steps_of_different_shares_are_weighted_by_their_information() -> None:
    rng = np.random.default_rng(8)
    values, (candidate, share) = simulate_outcomes("normal", rng), assign(STEPS, rng)
    band = difference_band(values + 0.3 * candidate, candidate, share)
    assert np.mean(band.mean[:, -1]) == pytest.approx(0.3, abs=0.01)
    min_deviation = 2 / np.sqrt(np.sum(4 * STEPS * (1 - STEPS)))  # of any unbiased estimate
    assert np.std(band.mean[:, -1]) < 1.05 * min_deviation


@pytest.mark.parametrize("share", [EVEN, STEPS], ids=["even", "steps"])
def test_a_fair_assignment_rarely_raises_an_alarm(share: FloatArray) -> None:
    e_values = mismatch_e_values(*assign(share, np.random.default_rng(9)))
    assert (e_values >= 1 / MISMATCH_LEVEL).any(-1).mean() <= MISMATCH_LEVEL


@pytest.mark.parametrize(
    ("share", "odds", "within"),
    [(EVEN, 9 / 11, 500), (EVEN, 11 / 9, 500), (EVEN, 0.5, 80), (STEPS, 0.5, 400), (STEPS, 2, 280)],
)
def test_a_sample_ratio_mismatch_is_detected(share: FloatArray, odds: float, within: int) -> None:
    candidate, recorded = assign(share, np.random.default_rng(10), odds)
    e_values = mismatch_e_values(candidate[:, :within], recorded[:, :within])
    assert (e_values >= 1 / MISMATCH_LEVEL).any(-1).mean() >= 0.5


@pytest.mark.parametrize("limit", [0.95, 0.9])
def test_a_harmful_adapter_violates_within_60_jobs_and_a_good_one_rarely(limit: float) -> None:
    uniform = np.random.default_rng(11).random((EXPERIMENTS, 500))
    harmful, good = (share_band(uniform < compliance).high < limit for compliance in (0.6, 0.97))
    assert harmful[:, :60].any(-1).mean() >= 0.99
    assert np.median(first_look(harmful)) <= 15
    assert good.any(-1).mean() <= ERROR_RATE


def test_slow_jobs_are_distinguished_from_jobs_at_the_limit() -> None:
    uniform = np.random.default_rng(12).random((EXPERIMENTS, 500))
    at_limit, slow = (share_band(uniform < beyond).low > 0.05 for beyond in (0.05, 0.2))
    assert at_limit.any(-1).mean() <= ERROR_RATE
    assert np.median(first_look(slow)) <= 40


def test_few_observations_have_no_interval() -> None:
    count = 2 * MIN_PER_ARM
    values, half = np.tile([0.0, 1.0], MIN_PER_ARM), np.full(count, 0.5)
    for band in (
        mean_band(values[:8]),
        difference_band(values, np.zeros(count, bool), half),
        difference_band(values, np.arange(count) < MIN_PER_ARM - 1, half),
    ):
        assert (band.last.low, band.last.high) == UNKNOWN


def test_values_that_never_varied_need_a_span() -> None:
    ones, candidate, half = np.ones(200), np.arange(200) % 2 == 0, np.full(200, 0.5)
    for band in (
        mean_band(ones),
        paired_band(ones, ones),
        difference_band(ones, candidate, half),
    ):
        assert (band.last.low, band.last.high) == UNKNOWN
    spanned = difference_band(ones, candidate, half, span=1).last
    assert spanned.mean == 0
    assert 0.01 < spanned.high < 0.1


def test_a_young_candidate_whose_values_agree_is_not_yet_better() -> None:
    approved = np.tile([1.0] * 8 + [0.0, 1.0], 20)
    candidate = np.arange(200) % 25 == 0
    assert approved[candidate].all()
    assert difference_band(approved, candidate, np.full(200, 0.05)).last.low < 0


def test_no_observations_give_an_open_interval() -> None:
    values, empty = np.empty(0), np.empty(0, bool)
    for band in (
        mean_band(values),
        paired_band(values, values),
        share_band(empty),
        difference_band(values, empty, values),
    ):
        assert np.isnan(band.last.mean)
        assert (band.last.low, band.last.high, band.last.count) == (*UNKNOWN, 0)
    assert mismatch_e_values(empty, values).shape == (0,)


def test_observations_that_were_not_assigned_at_random_are_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="not assigned at random"):
            difference_band(np.ones(3), np.ones(3, bool), np.full(3, share))
        with pytest.raises(ValueError, match="not assigned at random"):
            mismatch_e_values(np.ones(3, bool), np.full(3, share))
    with pytest.raises(AssertionError):
        mean_band(np.array([1.0, np.nan]))


@given(INTEGERS, st.randoms(use_true_random=False))
def test_a_band_contains_its_estimate_and_mirrors_with_its_sign(
    numbers: list[int], rng: Random
) -> None:
    values = np.array(numbers, float)
    candidate = np.array([rng.random() < 0.5 for _ in numbers])
    half = np.full(len(numbers), 0.5)
    for band, mirrored in (
        (mean_band(values), mean_band(-values)),
        (difference_band(values, candidate, half), difference_band(values, ~candidate, half)),
        (difference_band(values, candidate, half), difference_band(7 - values, candidate, half)),
    ):
        known = ~np.isnan(band.mean)
        assert np.all(band.low[known] <= band.mean[known])
        assert np.all(band.mean[known] <= band.high[known])
        assert band.low == pytest.approx(-mirrored.high)
        assert band.mean == pytest.approx(-mirrored.mean, nan_ok=True)


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_share_is_in_its_band_and_both_are_within_0_and_1(successes: list[bool]) -> None:
    band, mirrored = share_band(np.array(successes)), share_band(~np.array(successes))
    assert np.all((band.low >= 0) & (band.low <= band.mean))
    assert np.all((band.mean <= band.high) & (band.high <= 1))
    assert band.low == pytest.approx(1 - mirrored.high)


def test_a_share_band_ends_at_the_bound_of_the_martingale() -> None:
    successes = np.random.default_rng(13).random(5000) < 0.97
    band, good, count = share_band(successes), np.cumsum(successes), np.arange(1, 5001)
    # the next success, as predicted by the mixture of the earlier jobs
    predicted = (good - successes + 0.5) / count
    mixed = np.cumsum(np.log(np.where(successes, predicted, 1 - predicted)))
    for end in (band.low, band.high):
        inner = (end > 0) & (end < 1)
        p = end[inner]
        true = good[inner] * np.log(p) + (count - good)[inner] * np.log1p(-p)
        assert inner.sum() > 4900
        assert mixed[inner] - true == pytest.approx(np.log(20), abs=1e-6)


def test_a_mean_band_is_tightest_at_the_number_that_it_was_tuned_for() -> None:
    values = np.tile([-1.0, 1.0], LOOKS)
    last = TIGHTEST_SAMPLE_SIZE - 1
    margins = [mean_band(values, tuned_for=n).high[last] for n in (50, TIGHTEST_SAMPLE_SIZE, 2000)]
    assert min(margins) == margins[1]
    assert margins[1] == pytest.approx(3.05 / np.sqrt(TIGHTEST_SAMPLE_SIZE), rel=0.03)


def test_a_look_depends_on_earlier_observations_only() -> None:
    rng = np.random.default_rng(14)
    values, candidate, share = rng.normal(size=400), rng.random(400) < 0.4, np.full(400, 0.4)
    full, part = (difference_band(values[:n], candidate[:n], share[:n]) for n in (400, 250))
    assert full.low[:250] == pytest.approx(part.low)
    assert mismatch_e_values(candidate, share)[:250] == pytest.approx(
        mismatch_e_values(candidate[:250], share[:250])
    )
