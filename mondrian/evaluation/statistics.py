"""Intervals and tests for few photographs: paired, and each group of photographs counted once.

The estimate is the mean over groups of the mean within a group, so that copies of a photograph are
one observation. docs/evaluation.md says why each method was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy import stats

from mondrian.core.fields import FloatArray

LEVEL = 0.95  # of every interval
POWER = 0.8  # at which a difference counts as detectable
MIN_GROUPS = 5  # groups below which nothing can be concluded
_DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean difference, its interval, and what would settle it.

    groups      observations
    detectable  the difference that so many would find with a chance of POWER
    needed      groups that would find one as large as this; None where it is 0
    p           of the sign-flip test, two-sided
    """

    mean: float
    low: float
    high: float
    groups: int
    detectable: float
    needed: int | None
    p: float

    @property
    def is_above_zero(self) -> bool:
        """Surely above 0."""
        return self.groups >= MIN_GROUPS and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Surely below 0."""
        return self.groups >= MIN_GROUPS and self.high < 0


def average_by_group(values: Sequence[float], groups: Sequence[str]) -> FloatArray:
    """Mean of each group, in the order of their names."""
    names = sorted(set(groups))
    number = {name: i for i, name in enumerate(names)}
    group_indices = [number[group] for group in groups]
    counts = np.bincount(group_indices, minlength=len(names))
    sums = np.bincount(group_indices, weights=np.asarray(values, float), minlength=len(names))
    out: FloatArray = sums / counts
    return out


def estimate_paired_difference(
    differences: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """The mean of paired differences, with a studentised bootstrap over groups.

    Bootstrap-t (Efron & Tibshirani 1993, section 12.5): its error in coverage is O(1/n) a side,
    that of the percentile interval O(1/sqrt n), which matters at 12 to 20 photographs.
    """
    x = average_by_group(differences, groups)
    n, mean = len(x), float(x.mean())
    spread = float(x.std(ddof=1)) if n > 1 else 0.0
    if n < 2 or spread == 0:
        certain = n >= MIN_GROUPS
        low, high = (mean, mean) if certain else (-np.inf, np.inf)
        return Estimate(mean, low, high, n, 0.0, n if mean else None, sign_flip(x, seed))
    error = spread / sqrt(n)
    resamples = x[np.random.default_rng(seed).integers(0, n, (_DRAWS, n))]
    errors = resamples.std(axis=1, ddof=1) / sqrt(n)
    usable = errors > 1e-9 * spread
    t = (resamples.mean(axis=1)[usable] - mean) / errors[usable]
    tail = (1 - LEVEL) / 2
    upper, lower = np.quantile(t, [1 - tail, tail])
    low, high = float(mean - upper * error), float(mean - lower * error)
    detectable = _reach(n) * spread / sqrt(n)
    return Estimate(mean, low, high, n, detectable, _needed(mean, spread), sign_flip(x, seed))


def _reach(n: int) -> float:
    """Standard errors that a difference has to be for POWER at LEVEL."""
    return float(stats.t.ppf(1 - (1 - LEVEL) / 2, n - 1) + stats.t.ppf(POWER, n - 1))


def _needed(mean: float, spread: float) -> int | None:
    """Groups at which a difference of this size and spread is found with a chance of POWER."""
    if mean == 0:
        return None
    n = MIN_GROUPS
    for _ in range(50):
        again = max(MIN_GROUPS, ceil((_reach(n) * spread / abs(mean)) ** 2))
        if again == n:
            break
        n = again
    return n


def sign_flip(x: FloatArray, seed: int = 0) -> float:
    """Two-sided p that a mean so far from 0 comes of chance: each sign as likely as the other.

    Every pattern of signs up to 13 observations, else as many drawn ones.
    """
    n = len(x)
    if n <= 13:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ x) >= abs(x.sum()) * (1 - 1e-12)))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2**13, n))
    extreme = int(np.sum(np.abs(signs @ x) >= abs(x.sum()) * (1 - 1e-12)))
    return (extreme + 1) / (2**13 + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for being many (Holm 1979): the chance of any false one stays below p."""
    order = np.argsort(p)
    out, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        out[int(i)] = highest
    return out


def estimate_proportion(successes: int, count: int) -> tuple[float, float, float]:
    """A share and its exact interval (Clopper & Pearson 1934); (nan, 0, 1) of nothing."""
    if not count:
        return float("nan"), 0.0, 1.0
    interval = stats.binomtest(successes, count).proportion_ci(LEVEL, "exact")
    return successes / count, float(interval.low), float(interval.high)
