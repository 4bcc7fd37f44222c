"""How far scores lie from the advisor's own: each measure over photographs and dimensions.

docs/evaluation.md gives the formulas and their sources.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mondrian.critique.schema import DIMENSIONS

Scores = NDArray[np.float64]  # (photographs, seven)
CHANCE = 10 / 3  # mean distance of two scores that are drawn evenly from 0 to 10


def score_metrics(predicted: Scores, reference: Scores) -> dict[str, Any]:
    """Error, bias, kappa, rank correlation and collapse, together and by dimension."""
    if not len(predicted):
        return {"score_mae": None, "score_bias": None, "score_mae_by_dimension": None}
    error = predicted - reference
    dimension_metrics = {
        name: {
            "mae": _round(np.abs(error[:, i]).mean()),
            "bias": _round(error[:, i].mean()),
            "kappa": kappa(predicted[:, i], reference[:, i]),
            "spearman": spearman(predicted[:, i], reference[:, i]),
            "collapse": most_common_fraction(predicted[:, i]),
        }
        for i, name in enumerate(DIMENSIONS)
    }
    return {
        "score_mae": _round(np.abs(error).mean()),
        "score_bias": _round(error.mean()),
        "score_kappa": kappa(predicted.ravel(), reference.ravel()),
        "score_spearman": spearman(predicted.mean(axis=1), reference.mean(axis=1)),
        "score_collapse": most_common_fraction(predicted.ravel()),
        "score_mae_by_dimension": {
            name: metrics["mae"] for name, metrics in dimension_metrics.items()
        },
        "by_dimension": dimension_metrics,
    }


def kappa(predicted: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """Quadratic weighted kappa (Cohen 1968): 1 - observed / expected squared distance.

    The expected one is over every pair of a told and a wanted score; no classes are needed.
    """
    observed = float(((predicted - reference) ** 2).mean())
    expected = float(((predicted[:, None] - reference[None]) ** 2).mean())
    return _round(1 - observed / expected) if expected else None


def spearman(predicted: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """Correlation of ranks; None where either does not vary."""
    if len(predicted) < 3 or not np.ptp(predicted) or not np.ptp(reference):
        return None
    return _round(stats.spearmanr(predicted, reference).statistic)


def most_common_fraction(predicted: NDArray[Any]) -> float:
    """Share of the commonest score: 1 where all are the same."""
    return _round(Counter(predicted.tolist()).most_common(1)[0][1] / len(predicted))


def _round(value: Any) -> float:
    return round(float(value), 4)
