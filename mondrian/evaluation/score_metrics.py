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


def score_metrics(told: Scores, wanted: Scores) -> dict[str, Any]:
    """Error, bias, kappa, rank correlation and collapse, together and by dimension."""
    if not len(told):
        return {"score_mae": None, "score_bias": None, "score_mae_by_dimension": None}
    error = told - wanted
    each = {
        name: {
            "mae": _round(np.abs(error[:, i]).mean()),
            "bias": _round(error[:, i].mean()),
            "kappa": kappa(told[:, i], wanted[:, i]),
            "spearman": spearman(told[:, i], wanted[:, i]),
            "collapse": collapse(told[:, i]),
        }
        for i, name in enumerate(DIMENSIONS)
    }
    return {
        "score_mae": _round(np.abs(error).mean()),
        "score_bias": _round(error.mean()),
        "score_kappa": kappa(told.ravel(), wanted.ravel()),
        "score_spearman": spearman(told.mean(axis=1), wanted.mean(axis=1)),
        "score_collapse": collapse(told.ravel()),
        "score_mae_by_dimension": {name: one["mae"] for name, one in each.items()},
        "by_dimension": each,
    }


def kappa(told: NDArray[Any], wanted: NDArray[Any]) -> float | None:
    """Quadratic weighted kappa (Cohen 1968): 1 - observed / expected squared distance.

    The expected one is over every pair of a told and a wanted score; no classes are needed.
    """
    observed = float(((told - wanted) ** 2).mean())
    expected = float(((told[:, None] - wanted[None]) ** 2).mean())
    return _round(1 - observed / expected) if expected else None


def spearman(told: NDArray[Any], wanted: NDArray[Any]) -> float | None:
    """Correlation of ranks; None where either does not vary."""
    if len(told) < 3 or not np.ptp(told) or not np.ptp(wanted):
        return None
    return _round(stats.spearmanr(told, wanted).statistic)


def collapse(told: NDArray[Any]) -> float:
    """Share of the commonest score: 1 where all are the same."""
    return _round(Counter(told.tolist()).most_common(1)[0][1] / len(told))


def _round(value: Any) -> float:
    return round(float(value), 4)
