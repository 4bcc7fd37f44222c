"""Confidence sequences: running intervals that stay valid however often they are checked.

An interval of fixed sample size is valid once; checked after every job, it excludes the truth
sooner or later. A confidence sequence contains the truth at all times together with probability
`level`. All functions work along the last axis, so (experiments, n) simulates many experiments at
once. docs/experiments.md explains the choice of each method and gives its measured error rates.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, lambertw, logit, logsumexp, xlogy

from mondrian.core.fields import FloatArray

CONFIDENCE_LEVEL = 0.95  # of every sequence
TIGHTEST_SAMPLE_SIZE = 300  # observations at which means and differences are relatively tightest
MIN_PER_ARM = 5  # observations in each arm below which a difference is unknown
# Probability of a false alarm ever. A false alarm holds a rollout until a person has looked; a
# missed mismatch leads to wrong decisions. So more false alarms are accepted than for intervals.
MISMATCH_LEVEL = 0.1
# Alternatives to the recorded share, as log odds (0.2 is 45:55 instead of 50:50), and their weights
_LOG_ODDS_SHIFTS = np.array([-0.8, -0.2, 0.2, 0.8])
_SHIFT_WEIGHTS = np.array([0.05, 0.45, 0.45, 0.05])
_MAX_NEWTON_STEPS = 30  # six to ten are usual
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, infinite if they are unknown."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Band:
    """A running estimate and its confidence sequence, one entry per observation: (…, n)."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def last(self) -> Interval:
        if not len(self.mean):
            return Interval(float("nan"), -np.inf, np.inf, 0)
        mean, low, high = (float(x[-1]) for x in (self.mean, self.low, self.high))
        return Interval(mean, low, high, len(self.mean))


def mean_band(
    values: FloatArray,
    tuned_for: int = TIGHTEST_SAMPLE_SIZE,
    level: float = CONFIDENCE_LEVEL,
    span: float = 0.0,
) -> Band:
    """Return the running mean of the values.

    tuned_for  observations at which the interval is tightest
    span       difference of the largest and the smallest possible value (1 for yes and no); if it
               is unknown (0) and all values are equal, there is no interval
    """
    values = _check_values(values)
    count = np.arange(1, values.shape[-1] + 1.0)
    value_range = np.maximum.accumulate(values, -1) - np.minimum.accumulate(values, -1)
    # The large values of a skewed distribution often come late: assume one more as far off as any.
    squares = _sum_of_squares(values) + np.maximum(value_range, span) ** 2
    mean = np.cumsum(values, -1) / count
    return _build_band(mean, _mixture_boundary(count, tuned_for, level), squares, count)


def paired_band(
    candidate: FloatArray, control: FloatArray, level: float = CONFIDENCE_LEVEL
) -> Band:
    """Return the running mean of candidate minus control for the same photos.

    It is NaN before MIN_PER_ARM pairs.
    """
    band = mean_band(np.asarray(candidate, float) - np.asarray(control, float), level=level)
    is_known = np.arange(1, band.mean.shape[-1] + 1) >= MIN_PER_ARM
    return replace(band, mean=np.where(is_known, band.mean, np.nan))


def difference_band(
    values: FloatArray,
    candidate: BoolArray,
    share: FloatArray,
    level: float = CONFIDENCE_LEVEL,
    span: float = 0.0,
) -> Band:
    """Return candidate mean minus control mean of values assigned to the candidate by `share`.

    It is NaN, with an infinite interval, before each arm has MIN_PER_ARM values.

    Augmented inverse-propensity scores (Waudby-Smith et al. 2024, section 3 on causal effects) with
    arm means of earlier observations only, each weighted by share(1 - share), the inverse of its
    variance if both arms vary alike (overlap weights, Li, Morgan & Zaslavsky 2018): a step of 0.05
    then neither dominates a step of 0.5 nor has weights of 20. An observation counts as
    4 share(1 - share) observations of a 50:50 assignment.

    share  probability of assignment to the candidate, known, above 0 and below 1
    span   as in mean_band

    Raises ValueError if a share is 0 or 1: such an observation compares nothing.
    """
    values, share = _check_values(values), _check_shares(share)
    y, in_candidate = values - values[..., :1], np.asarray(candidate, float)
    weight = np.where(np.arange(y.shape[-1]) > 0, share * (1 - share), 0)  # the first sets the mean
    scores = _weighted_scores(y, in_candidate, share) * (weight > 0)
    total, count = np.cumsum(weight, -1), np.arange(1, y.shape[-1] + 1.0)
    mean = np.cumsum(scores, -1) / np.where(total > 0, total, 1)
    pooled_squares = _sum_of_squares(values) / np.maximum(count - 1, 1) * total
    # The few values of a young candidate may agree and show no spread: use the spread of all.
    squares = np.maximum(_weighted_sum_of_squares(scores, weight, mean), pooled_squares)
    squares += np.maximum(np.maximum.accumulate(np.abs(scores), -1), span / 2) ** 2
    smaller_arm = np.minimum(np.cumsum(in_candidate, -1), np.cumsum(1 - in_candidate, -1))
    boundary = _mixture_boundary(4 * total, TIGHTEST_SAMPLE_SIZE, level)
    is_known = smaller_arm >= MIN_PER_ARM
    boundary = np.where(is_known, boundary, np.inf)
    return _build_band(np.where(is_known, mean, np.nan), boundary, squares, total)


def _check_values(values: FloatArray) -> FloatArray:
    values = np.asarray(values, float)
    assert np.isfinite(values).all(), "values must be finite"
    return values


def _check_shares(share: FloatArray) -> FloatArray:
    share = np.asarray(share, float)
    if not ((share > 0) & (share < 1)).all():
        raise ValueError(
            "shares must be above 0 and below 1; leave out what was not assigned at random"
        )
    return share


def _weighted_scores(y: FloatArray, in_candidate: FloatArray, share: FloatArray) -> FloatArray:
    """Return share(1 - share) times the pseudo-outcome of each observation."""
    num_earlier = np.arange(y.shape[-1])
    pooled = (np.cumsum(y, -1) - y) / np.maximum(num_earlier, 1)
    in_control = 1 - in_candidate
    candidate_mean, control_mean = (
        _earlier_mean(y, arm, pooled) for arm in (in_candidate, in_control)
    )
    candidate_part = in_candidate * (1 - share) * (y - candidate_mean)
    control_part = in_control * share * (y - control_mean)
    scores: FloatArray = share * (1 - share) * (candidate_mean - control_mean)
    return scores + candidate_part - control_part


def _earlier_mean(y: FloatArray, in_arm: FloatArray, pooled: FloatArray) -> FloatArray:
    """Return the mean of an arm before each observation; the pooled mean counts as one more."""
    total, count = np.cumsum(y * in_arm, -1) - y * in_arm, np.cumsum(in_arm, -1) - in_arm
    mean: FloatArray = (total + pooled) / (count + 1)
    return mean


def _sum_of_squares(values: FloatArray) -> FloatArray:
    """Return the running sum of squares about the running mean."""
    y = values - values[..., :1]
    mean = np.cumsum(y, -1) / np.arange(1, y.shape[-1] + 1)
    return _weighted_sum_of_squares(y, np.ones_like(y), mean)


def _weighted_sum_of_squares(
    scores: FloatArray, weight: FloatArray, mean: FloatArray
) -> FloatArray:
    """Return the running sum of (score - weight * mean)^2, with the mean at that time."""
    cross, squares = np.cumsum(scores * weight, -1), np.cumsum(weight**2, -1)
    return np.maximum(np.cumsum(scores**2, -1) - 2 * mean * cross + mean**2 * squares, 0)


def _mixture_boundary(count: FloatArray, tuned_for: float, level: float) -> FloatArray:
    """Return by how many root sums of squares a running sum may differ from its expectation.

    From the t-statistic's Gaussian mixture martingale (Wang & Ramdas 2023): exact for normal
    values. For others it approaches, from above, the asymptotic sequence of Waudby-Smith et al.
    2024 (Gaussian mixture, section 2), with their choice of the mixture that is tightest at
    `tuned_for`. It is infinite for the first few observations: the burn-in.
    """
    alpha = 1 - level
    prior = tuned_for / (-lambertw(-(alpha**2) / np.e, -1).real - 1)
    count = np.maximum(count, 1e-9)
    prior_weight = prior / (count + prior)
    with np.errstate(over="ignore"):
        bound = np.exp(-2 / count * (np.log(alpha) + np.log(prior_weight) / 2))
    remainder = 1 - prior_weight * bound
    boundary = np.sqrt(count * (bound - 1) / np.where(remainder > 0, remainder, np.nan))
    return np.where(remainder > 0, boundary, np.inf)


def _build_band(
    mean: FloatArray, boundary: FloatArray, squares: FloatArray, total: FloatArray
) -> Band:
    """Return mean ± boundary times root of squares over the total weight."""
    root = np.sqrt(np.where(squares > 0, squares, np.inf))
    margin = boundary * root / np.where(total > 0, total, 1)
    return Band(mean, np.nan_to_num(mean) - margin, np.nan_to_num(mean) + margin)


def share_band(successes: BoolArray, level: float = CONFIDENCE_LEVEL) -> Band:
    """Return the running share of successes, exact for every number of observations."""
    good = np.cumsum(np.asarray(successes, bool), -1, dtype=float)
    count = np.broadcast_to(np.arange(1, good.shape[-1] + 1.0), good.shape)
    return Band(*share_interval(good, count, level))


def share_interval(
    good: FloatArray, count: FloatArray, level: float | FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean of observations from 0 to 1, and the ends of its interval.

    {p : B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) < p^k (1 - p)^(n - k) / (1 - level)}. If p is true,
    the likelihood ratio of a beta mixture to p is a martingale, and Ville's inequality bounds it
    (Robbins 1970; Howard et al. 2021). With observations between 0 and 1 it is a supermartingale,
    because (q/p)^x ((1 - q)/(1 - p))^(1 - x) <= x q/p + (1 - x) (1 - q)/(1 - p).

    good   sum k of the observations
    count  number n of observations, from 1
    """
    limit = np.log(1 / (1 - level)) - betaln(good + 0.5, count - good + 0.5) + betaln(0.5, 0.5)
    low = _solve_lower_bound(good, count, limit)
    high = 1 - _solve_lower_bound(count - good, count, limit)
    return good / count, low, high


def _solve_lower_bound(good: FloatArray, count: FloatArray, limit: FloatArray) -> FloatArray:
    """Return the smaller p with -k log p - (n - k) log(1 - p) = limit; 0 if k is 0.

    Newton's method in log odds, in which the left side is convex: started outside, it never
    overshoots.
    """
    p_hat = good / count
    slack = limit + xlogy(good, p_hat) + xlogy(count - good, 1 - p_hat)
    by_pinsker = p_hat - np.sqrt(slack / (2 * count))
    by_successes = np.exp(-limit / np.maximum(good, 1))
    log_odds = logit(np.maximum(by_pinsker, by_successes))
    for _ in range(_MAX_NEWTON_STEPS):
        value = count * np.logaddexp(0, log_odds) - good * log_odds - limit
        step = value / (good - count * expit(log_odds))
        log_odds = log_odds + step
        if np.max(np.abs(step), initial=0) < 1e-9:
            break
    return np.where(good > 0, expit(log_odds), 0.0)


def mismatch_e_values(candidate: BoolArray, share: FloatArray) -> FloatArray:
    """Return the running e-value against assignments having followed their shares: (…, n).

    The sequential sample-ratio check: jobs that are lost, counted twice or assigned by another rule
    than recorded make every comparison of the arms worthless, however narrow its interval.

    A mixture of likelihood ratios, each with the odds of every observation multiplied by a factor:
    a martingale if the shares are true (Lindon & Malek 2020 mix over shares, which must stay
    constant). An alarm is raised once it reaches 1 / MISMATCH_LEVEL (Ville's inequality).

    share  recorded probability of assignment to the candidate, above 0 and below 1
    """
    share = _check_shares(share)
    propensity = np.where(candidate, share, 1 - share)
    ratios = []
    for shift in _LOG_ODDS_SHIFTS:
        shifted = expit(logit(share) + shift)
        shifted_propensity = np.where(candidate, shifted, 1 - shifted)
        ratios.append(np.cumsum(np.log(shifted_propensity / propensity), -1))
    weights = _SHIFT_WEIGHTS.reshape(-1, *[1] * share.ndim)
    return np.exp(np.minimum(logsumexp(ratios, axis=0, b=weights), 700))
