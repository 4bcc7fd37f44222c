"""Confidence intervals and tests for paired differences over few photos.

An estimate is the mean over photo groups of the mean within a group, so that copies of a photo are
one observation. docs/evaluation.md explains the choice of methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy import stats

from mondrian.core.fields import FloatArray

CONFIDENCE_LEVEL = 0.95  # of every interval
POWER = 0.8  # at which a difference counts as detectable
MIN_GROUPS = 5  # below this nothing is concluded
_RESAMPLES = 2000
_ROUNDING = 1e-9  # of the spread: a mean below it is what rounding left of 0
_MAX_NEEDED = 1_000_000  # groups; a difference that needs more is not worth a number


@dataclass(frozen=True)
class Estimate:
    mean: float
    low: float
    high: float
    groups: int  # number of observations
    detectable: float  # difference that this many groups detect with probability POWER
    needed: int | None  # groups that would detect this difference; None if 0 or over a million
    p: float  # of the two-sided sign-flip test

    @property
    def is_above_zero(self) -> bool:
        return self.groups >= MIN_GROUPS and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        return self.groups >= MIN_GROUPS and self.high < 0


def average_by_group(values: Sequence[float], groups: Sequence[str]) -> FloatArray:
    """Return the mean of each group, in the order of their names."""
    _, group_indices = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group_indices, weights=np.asarray(values, float))
    averages: FloatArray = sums / np.bincount(group_indices)
    return averages


def estimate_paired_difference(
    differences: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Estimate the mean of paired differences with a bootstrap-t over groups.

    Efron & Tibshirani 1993, section 12.5: its coverage error per side is O(1/n),
    that of the percentile interval O(1/sqrt n), which matters at 12 to 20 photos.
    """
    x = average_by_group(differences, groups)
    n, mean = len(x), float(x.mean())
    spread = float(x.std(ddof=1)) if n > 1 else 0.0
    mean = mean if abs(mean) > _ROUNDING * spread else 0.0
    if n < MIN_GROUPS or spread == 0:
        low, high = (mean, mean) if n >= MIN_GROUPS else (-np.inf, np.inf)
        needed = _needed(mean, spread) if spread else n if mean else None
        return Estimate(mean, low, high, n, 0.0, needed, sign_flip(x, seed))
    error = spread / sqrt(n)
    resamples = x[np.random.default_rng(seed).integers(0, n, (_RESAMPLES, n))]
    errors = resamples.std(axis=1, ddof=1) / sqrt(n)
    usable = errors > _ROUNDING * spread
    t = (resamples.mean(axis=1)[usable] - mean) / errors[usable]
    tail = (1 - CONFIDENCE_LEVEL) / 2
    upper, lower = np.quantile(t, [1 - tail, tail])
    low, high = float(mean - upper * error), float(mean - lower * error)
    detectable = _detectable_errors(n) * spread / sqrt(n)
    return Estimate(mean, low, high, n, detectable, _needed(mean, spread), sign_flip(x, seed))


def _detectable_errors(n: int) -> float:
    """Return how many standard errors a difference needs for POWER at CONFIDENCE_LEVEL."""
    return float(stats.t.ppf(1 - (1 - CONFIDENCE_LEVEL) / 2, n - 1) + stats.t.ppf(POWER, n - 1))


def _needed(mean: float, spread: float) -> int | None:
    """Return the number of groups that detect this mean and spread with probability POWER."""
    if mean == 0:
        return None
    n = MIN_GROUPS
    for _ in range(50):
        previous, needed = n, (_detectable_errors(n) * spread / abs(mean)) ** 2
        if needed > _MAX_NEEDED:
            return None
        n = max(MIN_GROUPS, ceil(needed))
        if n == previous:
            break
    return n


def sign_flip(x: FloatArray, seed: int = 0) -> float:
    """Return the two-sided p-value under random signs: all patterns for n <= 13, else a sample."""
    n = len(x)
    threshold = abs(x.sum()) * (1 - 1e-12)
    if n <= 13:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ x) >= threshold))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2**13, n))
    return (int(np.sum(np.abs(signs @ x) >= threshold)) + 1) / (2**13 + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values that control the family-wise error rate over several tests (Holm 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[int(i)] = highest
    return adjusted


def estimate_proportion(successes: int, count: int) -> tuple[float, float, float]:
    """Return a share and its exact interval (Clopper & Pearson 1934); (nan, 0, 1) if count is 0."""
    if not count:
        return float("nan"), 0.0, 1.0
    interval = stats.binomtest(successes, count).proportion_ci(CONFIDENCE_LEVEL, "exact")
    return successes / count, float(interval.low), float(interval.high)
