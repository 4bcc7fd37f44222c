"""Confidence intervals and tests for paired differences over few photos.

Observations are sorted before they are resampled: names and order of the groups change nothing.

An estimate is the mean over photo groups of the mean within a group, so that copies of a photo are
one observation. docs/evaluation.md explains the choice of methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt

import numpy as np
from scipy import stats

from mondrian.core.fields import FloatArray
from mondrian.critique.rows import MIN_GROUPS

CONFIDENCE_LEVEL = 0.95  # of every interval
POWER = 0.8  # at which a difference counts as detectable
_RESAMPLES = 20_000
_BATCH = 2_000  # resamples in memory at a time
_PERMUTATIONS = 2**13
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

    @classmethod
    def unknown(cls) -> "Estimate":
        """Return the estimate from no observations."""
        return cls(0.0, -np.inf, np.inf, 0, 0.0, None, 1.0)

    @property
    def is_above_zero(self) -> bool:
        return self._is_certain and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        return self._is_certain and self.high < 0

    @property
    def _is_certain(self) -> bool:
        """Return whether there are enough groups, and enough of them that differ at all.

        If few do, the interval is too narrow; the test is exact.
        """
        return self.groups >= MIN_GROUPS and self.p <= 1 - CONFIDENCE_LEVEL + 1e-9


def average_by_group(values: Sequence[float], groups: Sequence[str]) -> FloatArray:
    """Return the mean of each group, in the order of their names."""
    means: FloatArray = group_weights(groups) @ np.asarray(values, float)
    return means


def group_weights(groups: Sequence[str]) -> FloatArray:
    """Return the weights (groups, values) that average the values of each group."""
    names, group_indices = np.unique(np.asarray(groups), return_inverse=True)
    members = (group_indices == np.arange(len(names))[:, None]).astype(float)
    weights: FloatArray = members / members.sum(axis=1, keepdims=True)
    return weights


def estimate_paired_difference(
    differences: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Estimate the mean of paired differences with a bootstrap-t over groups.

    Efron & Tibshirani 1993, section 12.5: its coverage error per side is O(1/n),
    that of the percentile interval O(1/sqrt n), which matters at 12 to 20 photos.
    """
    return _estimate_mean(average_by_group(differences, groups), seed)


def estimate_pairing(values: FloatArray, groups: Sequence[str], seed: int = 0) -> Estimate:
    """Estimate how much higher values[i, i] are than the values of photos of different groups.

    values[i, j] compares the answer to photo i with the reference of photo j. The mean over all
    pairs is a U-statistic; a group contributes its own value minus its projection (Hoeffding 1948),
    and p is that of a permutation test. Fewer than two groups give an unknown estimate.
    """
    if len(set(groups)) < 2:
        return Estimate.unknown()
    pairs = average_pairs(values, groups)
    estimate = _estimate_mean(np.diag(pairs) - project_other_pairs(pairs), seed)
    return replace(estimate, p=permute_pairs(pairs, seed))


def average_pairs(values: FloatArray, groups: Sequence[str]) -> FloatArray:
    """Return the means of pairs of groups; those of one group are of values[i, i] alone."""
    weights = group_weights(groups)
    pairs: FloatArray = weights @ values @ weights.T
    np.fill_diagonal(pairs, weights @ np.diag(values))
    return pairs


def project_other_pairs(pairs: FloatArray) -> FloatArray:
    """Return what each group contributes to the mean of the pairs of different groups.

    Its mean as an answer, plus its mean as a reference, minus the mean of all.
    """
    n = len(pairs)
    others = pairs - np.diag(np.diag(pairs))
    projection: FloatArray = (others.sum(axis=0) + others.sum(axis=1)) / (n - 1)
    return projection - others.sum() / (n * (n - 1))


def permute_pairs(pairs: FloatArray, seed: int = 0) -> float:
    """Return the two-sided p-value of the diagonal's mean under random pairings."""
    order = np.argsort(np.diag(pairs) - project_other_pairs(pairs), kind="stable")
    pairs = pairs[np.ix_(order, order)]
    n, rng = len(pairs), np.random.default_rng(seed)
    permutations = rng.permuted(np.tile(np.arange(n), (_PERMUTATIONS, 1)), axis=1)
    sums = pairs[np.arange(n), permutations].sum(axis=1) - pairs.sum() / n
    threshold = abs(np.trace(pairs) - pairs.sum() / n) - _ROUNDING * n * float(pairs.std())
    return (int(np.sum(np.abs(sums) >= threshold)) + 1) / (_PERMUTATIONS + 1)


def _estimate_mean(x: FloatArray, seed: int) -> Estimate:
    """Estimate the mean of independent observations."""
    x = np.sort(x)
    n, mean = len(x), float(x.mean())
    spread = float(x.std(ddof=1)) if n > 1 else 0.0
    mean = mean if abs(mean) > _ROUNDING * spread else 0.0
    if n < MIN_GROUPS or spread == 0:
        low, high = (mean, mean) if n >= MIN_GROUPS else (-np.inf, np.inf)
        needed = _needed(mean, spread) if spread else n if mean else None
        return Estimate(mean, low, high, n, 0.0, needed, sign_flip(x, seed))
    error, tail = spread / sqrt(n), (1 - CONFIDENCE_LEVEL) / 2
    upper, lower = np.quantile(_resample_t(x, seed), [1 - tail, tail])
    low, high = float(mean - upper * error), float(mean - lower * error)
    detectable = _detectable_errors(n) * spread / sqrt(n)
    return Estimate(mean, low, high, n, detectable, _needed(mean, spread), sign_flip(x, seed))


def _resample_t(x: FloatArray, seed: int) -> FloatArray:
    """Return (mean of the resample - mean of x) / standard error of each usable resample."""
    n, rng = len(x), np.random.default_rng(seed)
    t = []
    for _ in range(_RESAMPLES // _BATCH):
        resamples = x[rng.integers(0, n, (_BATCH, n))]
        errors = resamples.std(axis=1, ddof=1) / sqrt(n)
        usable = errors > _ROUNDING * x.std()
        t.append((resamples.mean(axis=1)[usable] - x.mean()) / errors[usable])
    return np.concatenate(t)


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
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (_PERMUTATIONS, n))
    return (int(np.sum(np.abs(signs @ x) >= threshold)) + 1) / (_PERMUTATIONS + 1)


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
