"""From a report to a verdict: paired comparisons, gates, and BETTER, WORSE or INCONCLUSIVE.

Everything here is computed from comparison_report.json alone.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from mondrian.core.params import EvaluateParams
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation import metrics
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.gates import REQUIRED_COMPARISONS, compute_gates
from mondrian.evaluation.score_metrics import score_error
from mondrian.evaluation.statistics import Estimate, estimate_paired_difference, holm

BETTER, WORSE, INCONCLUSIVE = "BETTER", "WORSE", "INCONCLUSIVE"
_INDEX_COMPARISONS = {"index": "base", "index_few_shot": "few_shot"}
_ERROR_COMPARISONS = {"score_error": "base", "constant": "constant", "vs_shuffled": "shuffled"}


def build_evaluation(report: dict[str, Any], params: EvaluateParams) -> dict[str, Any]:
    """Return the content of evaluate.json: verdict, comparisons, gates and metrics of each arm."""
    photos = report["photographs"]
    arm_metrics = metrics.compute_arm_metrics(report, params)
    comparisons = compute_comparisons(report, params)
    return {
        "verdict": decide_verdict(comparisons),
        "photographs": len(photos),
        "text_only_photographs": sum(photo["reference_scores"] is None for photo in photos),
        "photograph_groups": len({photo["photo_group"] for photo in photos}),
        "comparisons": {name: _to_json(estimate) for name, estimate in comparisons.items()},
        "dimensions": _compare_dimensions(photos),
        "gates": compute_gates(report, arm_metrics, comparisons, params.gates),
        **arm_metrics,
    }


def compute_comparisons(report: dict[str, Any], params: EvaluateParams) -> dict[str, Estimate]:
    """Return paired differences by photo; above 0 means that the adapter is better.

    index           quality index, points of 100, against the base
    index_few_shot  the same against the base with examples in its prompt
    score_error     score error, points of 10, against the base (if both have scores)
    constant        score error against the constant predictor
    vs_shuffled     score error against that with a different photo
    """
    photos = report["photographs"]
    groups = [photo["photo_group"] for photo in photos]
    arms = [arm for arm in ARMS if arm in photos[0]]
    references = [photo["reference_scores"] for photo in photos]
    index, errors = {}, {}
    for arm in arms:
        answers = [photo[arm] for photo in photos]
        parts = metrics.compute_index_parts(answers, photos)
        index[arm] = metrics.compute_quality_index(parts, params.index)
        errors[arm] = list(map(score_error, [a["scores"] for a in answers], references))
    errors["constant"] = list(map(score_error, metrics.predict_constant(report), references))
    comparisons = {}
    for name, arm in _INDEX_COMPARISONS.items():
        if arm in arms:
            comparisons[name] = _estimate_gain(index[arm], index["fine_tuned"], groups)
    for name, arm in _ERROR_COMPARISONS.items():
        if arm in errors:  # a smaller error is a gain
            comparisons[name] = _estimate_gain(errors["fine_tuned"], errors[arm], groups)
    return comparisons


def decide_verdict(comparisons: dict[str, Estimate]) -> str:
    """Return BETTER only if the index beats the base and the scores beat constant and shuffled."""
    required = [comparisons[name] for name in REQUIRED_COMPARISONS if name in comparisons]
    if all(estimate.is_above_zero for estimate in required):
        return BETTER
    return WORSE if comparisons["index"].is_below_zero else INCONCLUSIVE


def _estimate_gain(lower: list[float], higher: list[float], groups: list[str]) -> Estimate:
    """Estimate the difference of paired values, over photos for which both are known."""
    values = zip(lower, higher, groups, strict=True)
    gains = [(b - a, group) for a, b, group in values if isfinite(b - a)]
    if not gains:
        return Estimate(0.0, -np.inf, np.inf, 0, 0.0, None, 1.0)
    return estimate_paired_difference([gain for gain, _ in gains], [group for _, group in gains])


def _compare_dimensions(photos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the adapter's error reduction in each dimension, p adjusted for seven tests."""
    photos = [
        photo
        for photo in photos
        if photo["base"]["scores"] and photo["fine_tuned"]["scores"] and photo["reference_scores"]
    ]
    if not photos:
        return {}
    reference = np.array([photo["reference_scores"] for photo in photos], float)
    base, tuned = (
        np.abs(np.array([photo[arm]["scores"] for photo in photos], float) - reference)
        for arm in ("base", "fine_tuned")
    )
    groups = [photo["photo_group"] for photo in photos]
    estimates = [estimate_paired_difference(r.tolist(), groups) for r in (base - tuned).T]
    adjusted = holm([estimate.p for estimate in estimates])
    return {
        name: _to_json(estimate) | {"p_holm": round(p, 4)}
        for name, estimate, p in zip(DIMENSIONS, estimates, adjusted, strict=True)
    }


def _to_json(estimate: Estimate) -> dict[str, Any]:
    """Round to four places; infinity becomes null."""
    return {
        name: (round(value, 4) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in asdict(estimate).items()
    }
