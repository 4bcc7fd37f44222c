"""Photos of one walk as observations of their own find differences that do not exist."""

import numpy as np
import pytest

from mondrian.evaluation.statistics import estimate_paired_difference

WALKS, PHOTOS = 12, 4  # of each walk
SHARED = 0.5  # fraction of the variance that the photos of a walk have in common
TRIALS = 120


def count_false_findings(by_walk: bool) -> float:
    """Return the fraction of evaluations without a difference that find one."""
    rng = np.random.default_rng(0)
    groups = [f"{i // PHOTOS if by_walk else i:02}" for i in range(WALKS * PHOTOS)]
    found = 0
    for _ in range(TRIALS):
        common = np.repeat(rng.normal(size=WALKS), PHOTOS)
        own = rng.normal(size=WALKS * PHOTOS)
        differences = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own
        estimate = estimate_paired_difference(differences.tolist(), groups)
        found += estimate.is_above_zero or estimate.is_below_zero
    return found / TRIALS


@pytest.mark.slow
def test_a_walk_is_one_observation() -> None:
    assert count_false_findings(by_walk=True) <= 0.08
    assert count_false_findings(by_walk=False) >= 0.15
