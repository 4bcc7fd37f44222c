"""Running estimates that may be looked at as often as one likes: confidence sequences.

An interval of fixed size is right once; looked at after every job it is wrong sooner or later. A
confidence sequence holds the truth at all looks together with the chance `level`. All functions
work along the last axis, so that (experiments, n) simulates many at a time. docs/experiments.md
says why each method was taken and what it was measured to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, lambertw, logit, xlogy

from mondrian.core.fields import FloatArray

CONFIDENCE_LEVEL = 0.95  # of every sequence
TIGHTEST_SAMPLE_SIZE = (
    300  # observations at which means and differences are the most certain for their number
)
MIN_PER_ARM = 5  # observations of each arm below which a difference is unknown
_MAX_NEWTON_STEPS = 30  # steps at most; six to ten are taken
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """One look: an estimate and the ends of its interval, infinite where nothing is known."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Band:
    """A running estimate and its confidence sequence, one entry an observation: (…, n)."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def last(self) -> Interval:
        """The newest look."""
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
    """The mean of what was observed so far.

    tuned_for  observations at which the interval is to be tightest
    span       largest less smallest possible value, where known (1 for yes and no); where it is
               not, and all values are the same, there is no interval
    """
    values = np.asarray(values, float)
    assert np.isfinite(values).all(), "values must be finite"
    count = np.arange(1, values.shape[-1] + 1.0)
    value_range = np.maximum.accumulate(values, -1) - np.minimum.accumulate(values, -1)
    # Of skewed values the large ones often are yet to come: one more as far off as any so far.
    squares = _sum_of_squares(values) + np.maximum(value_range, span) ** 2
    return _build_band(
        np.cumsum(values, -1) / count, _mixture_boundary(count, tuned_for, level), squares, count
    )


def paired_band(
    candidate: FloatArray, control: FloatArray, level: float = CONFIDENCE_LEVEL
) -> Band:
    """Mean of candidate less control, of the same photographs."""
    return mean_band(np.asarray(candidate, float) - np.asarray(control, float), level=level)


def difference_band(
    values: FloatArray,
    candidate: Bools,
    share: FloatArray,
    tuned_for: int = TIGHTEST_SAMPLE_SIZE,
    level: float = CONFIDENCE_LEVEL,
    span: float = 0.0,
) -> Band:
    """Mean of the candidate less mean of the control, where `share` dealt each observation.

    Augmented inverse-propensity scores (Waudby-Smith et al. 2024, section 3 on causal effects) with
    arm means from earlier observations alone, each weighted by share(1 - share), the inverse of its
    variance where arms spread alike (overlap weights, Li, Morgan & Zaslavsky 2018): a step of 0.05
    then neither drowns a step of 0.5 nor has weights of 20.

    share      chance of being dealt to the candidate, known, above 0 and below 1
    tuned_for  observations, as if dealt evenly: 4 share(1 - share) is what one counts for
    span       as of mean_band

    Raises ValueError where a share is 0 or 1: such an observation compares nothing.
    """
    values, share = np.asarray(values, float), np.asarray(share, float)
    assert np.isfinite(values).all(), "values must be finite"
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("share must lie above 0 and below 1; leave out what was not dealt by lot")
    y, new = values - values[..., :1], np.asarray(candidate, float)
    weight = np.where(np.arange(y.shape[-1]) > 0, share * (1 - share), 0)  # the first sets the mean
    scores = _scores(y, new, share) * (weight > 0)
    total, count = np.cumsum(weight, -1), np.arange(1, y.shape[-1] + 1.0)
    mean = np.cumsum(scores, -1) / np.where(total > 0, total, 1)
    alike = _sum_of_squares(values) / np.maximum(count - 1, 1) * total
    # A young candidate whose few values happen to agree shows no spread: borrow that of all.
    squares = np.maximum(_weighted_sum_of_squares(scores, weight, mean), alike)
    squares += np.maximum(np.maximum.accumulate(np.abs(scores), -1), span / 2) ** 2
    arms = np.minimum(np.cumsum(new, -1), np.cumsum(1 - new, -1))
    reach = np.where(arms < MIN_PER_ARM, np.inf, _mixture_boundary(4 * total, tuned_for, level))
    return _build_band(np.where(arms > 0, mean, np.nan), reach, squares, total)


def _scores(y: FloatArray, new: FloatArray, share: FloatArray) -> FloatArray:
    """share(1 - share) times the pseudo-outcome of each observation."""
    n_earlier = np.arange(y.shape[-1])
    pooled = (np.cumsum(y, -1) - y) / np.maximum(n_earlier, 1)
    treated, untreated = (_earlier(y, arm, pooled) for arm in (new, 1 - new))
    of_new, of_old = new * (1 - share) * (y - treated), (1 - new) * share * (y - untreated)
    out: FloatArray = share * (1 - share) * (treated - untreated) + of_new - of_old
    return out


def _earlier(y: FloatArray, arm: FloatArray, pooled: FloatArray) -> FloatArray:
    """Mean of an arm before each observation; that of both arms counts as one more of it."""
    total, count = np.cumsum(y * arm, -1) - y * arm, np.cumsum(arm, -1) - arm
    out: FloatArray = (total + pooled) / (count + 1)
    return out


def _sum_of_squares(values: FloatArray) -> FloatArray:
    """Running sum of squares about the running mean."""
    y = values - values[..., :1]
    return _weighted_sum_of_squares(
        y, np.ones_like(y), np.cumsum(y, -1) / np.arange(1, y.shape[-1] + 1)
    )


def _weighted_sum_of_squares(
    scores: FloatArray, weight: FloatArray, mean: FloatArray
) -> FloatArray:
    """Running sum of (score - weight * mean)^2, with the mean as it is by then."""
    cross, own = np.cumsum(scores * weight, -1), np.cumsum(weight**2, -1)
    out = np.cumsum(scores**2, -1) - 2 * mean * cross + mean**2 * own
    return np.maximum(out, 0)


def _mixture_boundary(count: FloatArray, tuned_for: float, level: float) -> FloatArray:
    """How many root sums of squares a running sum may be from its expectation.

    From the t-statistic's Gaussian mixture martingale (Wang & Ramdas 2023): exact for normal
    values. For others it tends, from above, to the asymptotic sequence of Waudby-Smith et al. 2024
    (Gaussian mixture, section 2), with their choice of the mixture that is tightest at `tuned_for`.
    It is infinite for the first few: the burn-in.
    """
    alpha = 1 - level
    prior = tuned_for / (-lambertw(-(alpha**2) / np.e, -1).real - 1)
    count = np.maximum(count, 1e-9)
    prior_weight = prior / (count + prior)
    with np.errstate(over="ignore"):
        bound = np.exp(-2 / count * (np.log(alpha) + np.log(prior_weight) / 2))
    room = 1 - prior_weight * bound
    out: FloatArray = np.sqrt(count * (bound - 1) / np.where(room > 0, room, np.nan))
    return np.where(room > 0, out, np.inf)


def _build_band(
    mean: FloatArray, reach: FloatArray, squares: FloatArray, total: FloatArray
) -> Band:
    """Reach times root of squares, over the total weight, on both sides of the mean."""
    spread = np.sqrt(np.where(squares > 0, squares, np.inf))
    margin = reach * spread / np.where(total > 0, total, 1)
    return Band(mean, np.nan_to_num(mean) - margin, np.nan_to_num(mean) + margin)


def share_band(successes: Bools, level: float = CONFIDENCE_LEVEL) -> Band:
    """The share of successes so far, exact at every number of observations.

    {p : B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) < p^k (1 - p)^(n - k) / alpha}: the likelihood ratio
    of a beta mixture to p is a martingale where p is true, and Ville's inequality bounds it
    (Robbins 1970; Howard et al. 2021).
    """
    good = np.cumsum(np.asarray(successes, bool), -1, dtype=float)
    count = np.broadcast_to(np.arange(1, good.shape[-1] + 1.0), good.shape)
    limit = np.log(1 / (1 - level)) - betaln(good + 0.5, count - good + 0.5) + betaln(0.5, 0.5)
    low, high = (
        _solve_lower_bound(good, count, limit),
        1 - _solve_lower_bound(count - good, count, limit),
    )
    return Band(good / count, low, high)


def _solve_lower_bound(good: FloatArray, count: FloatArray, limit: FloatArray) -> FloatArray:
    """The smaller p with -k log p - (n - k) log(1 - p) = limit; 0 where k is 0.

    Newton's method in log odds, where the left side is convex: from outside it never overshoots.
    """
    p_hat = good / count
    spare = limit + xlogy(good, p_hat) + xlogy(count - good, 1 - p_hat)
    by_pinsker = p_hat - np.sqrt(spare / (2 * count))
    by_successes = np.exp(-limit / np.maximum(good, 1))
    log_odds = logit(np.maximum(by_pinsker, by_successes))
    for _ in range(_MAX_NEWTON_STEPS):
        step = (count * np.logaddexp(0, log_odds) - good * log_odds - limit) / (
            good - count * expit(log_odds)
        )
        log_odds = log_odds + step
        if np.max(np.abs(step), initial=0) < 1e-9:
            break
    return np.where(good > 0, expit(log_odds), 0.0)
