"""Simulated scores: an advisor's, and those of models that see them in part."""

import numpy as np

from mondrian.core.fields import FloatArray

MEDIAN = 6.0  # of the advisor's scores in train


def draw_scores(rng: np.random.Generator, count: int) -> FloatArray:
    """Return deviations from the median; dimensions of a photo share half of their variance."""
    return rng.normal(0, 1.4, (count, 1)) + rng.normal(0, 1.4, (count, 7))


def to_scores(deviations: FloatArray) -> FloatArray:
    return (MEDIAN + deviations).round().clip(0, 10)


def look(rng: np.random.Generator, truth: FloatArray, correlation: float) -> FloatArray:
    """Return deviations with this correlation to the advisor's, and the same spread."""
    noise = draw_scores(rng, len(truth))
    return correlation * truth + (1 - correlation**2) ** 0.5 * noise
