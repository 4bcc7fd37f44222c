"""Distance between predicted scores and the advisor's scores, over photos and dimensions.

docs/evaluation.md gives the formulas and their sources.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from mondrian.core.fields import FloatArray
from mondrian.critique.schema import DIMENSIONS

Scores = Sequence[float] | FloatArray
CHANCE_ERROR = 10 / 3  # mean distance of two scores drawn uniformly from 0 to 10


def raw_scores(answer: Mapping[str, Any]) -> Sequence[float] | None:
    """Return the scores of a report's answer as the model generated them, before calibration."""
    scores: Sequence[float] | None = answer.get("raw_scores", answer["scores"])
    return scores


def score_error(scores: Scores | None, reference: Scores | None) -> float:
    """Return the mean absolute error of the scores of one answer; NaN if one side has none."""
    if scores is None or reference is None:
        return float("nan")
    return float(np.abs(np.subtract(scores, reference)).mean())


def pair_errors(predicted: FloatArray, references: FloatArray) -> FloatArray:
    """Return the errors of each answer's scores against each reference: (answers, references)."""
    errors: FloatArray = np.abs(predicted[:, None] - references[None]).mean(axis=2)
    return errors


def score_metrics(predicted: FloatArray, reference: FloatArray) -> dict[str, Any]:
    """Return error, bias, kappa, rank correlation and collapse of scores (photos, dimensions)."""
    if not len(predicted):
        return {"score_mae": None, "score_bias": None, "score_mae_by_dimension": None}
    error = predicted - reference
    by_dimension = {
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
        "score_mae_by_dimension": {name: metrics["mae"] for name, metrics in by_dimension.items()},
        "by_dimension": by_dimension,
    }


def kappa(predicted: FloatArray, reference: FloatArray) -> float | None:
    """Return the quadratic weighted kappa (Cohen 1968): 1 - observed / expected squared distance.

    The expectation is over all pairs of predicted and reference scores; classes are not needed.
    """
    observed = float(((predicted - reference) ** 2).mean())
    expected = float(((predicted[:, None] - reference[None]) ** 2).mean())
    return _round(1 - observed / expected) if expected else None


def spearman(predicted: FloatArray, reference: FloatArray) -> float | None:
    """Return the rank correlation, or None if either side is constant."""
    if len(predicted) < 3 or not np.ptp(predicted) or not np.ptp(reference):
        return None
    return _round(stats.spearmanr(predicted, reference).statistic)


def most_common_fraction(predicted: FloatArray) -> float:
    """Return the share of the most frequent score: 1 if all are equal."""
    return _round(Counter(predicted.tolist()).most_common(1)[0][1] / len(predicted))


def _round(value: Any) -> float:
    return round(float(value), 4)
