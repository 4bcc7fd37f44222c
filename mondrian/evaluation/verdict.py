"""From a report to a verdict: paired comparisons, gates, and what they say together.

Everything here is computed from comparison_report.json alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.core.params import EvaluateParams
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation import metrics
from mondrian.evaluation.arms import JUDGED_ARMS
from mondrian.evaluation.gates import REQUIRED_COMPARISONS, compute_gates
from mondrian.evaluation.quality_index import ArmIndex, Entries, take_known_pairs
from mondrian.evaluation.score_metrics import Scores, raw_scores, score_error
from mondrian.evaluation.statistics import (
    Estimate,
    average_by_group,
    average_pairs,
    estimate_paired_difference,
    estimate_pairing,
    holm,
    project_other_pairs,
)

BETTER, BETTER_MANNER = "BETTER", "BETTER_MANNER"
WORSE, INCONCLUSIVE = "WORSE", "INCONCLUSIVE"


def build_evaluation(report: dict[str, Any], params: EvaluateParams) -> dict[str, Any]:
    """Return the content of evaluate.json: verdict, comparisons, gates and metrics of each arm."""
    photos = report["photographs"]
    indexes = metrics.compute_indexes(report, params.index)
    arm_metrics = metrics.compute_arm_metrics(report, indexes)
    comparisons = compute_comparisons(report, indexes)
    return {
        "verdict": decide_verdict(comparisons),
        "calibration": report.get("calibration"),
        "photographs": len(photos),
        "text_only_photographs": sum(photo["reference_scores"] is None for photo in photos),
        "photograph_groups": len({photo["photo_group"] for photo in photos}),
        "comparisons": {name: _to_json(estimate) for name, estimate in comparisons.items()},
        "dimensions": _compare_dimensions(photos),
        "gates": compute_gates(report, arm_metrics, comparisons, params.gates),
        **arm_metrics,
    }


def compute_comparisons(
    report: dict[str, Any], indexes: dict[str, ArmIndex]
) -> dict[str, Estimate]:
    """Return paired differences by photo; above 0 means that the adapter is better.

    constant compares calibrated scores, the others the scores as generated: fitted weights of two
    arms differ by chance for all photos at once, which no interval over photos contains. manner and
    judgement divide the gain by aligned scores: see quality_index.align_scores.

    index           quality index, points of 100, against the base: manner + judgement
    manner          the part of it by words, and by the level of the scores
    judgement       the part of it by the order of the photos: scores that fit this photo better
                    than others, with the scores of both arms at the advisor's level
    index_few_shot  quality index against the base with examples in its prompt
    score_error     score error, points of 10, against the base (if both have scores)
    constant        score error against the constant predictor
    vs_shuffled     score error against the references of all other photos
    """
    photos = report["photographs"]
    groups = [photo["photo_group"] for photo in photos]
    tuned, base = indexes["fine_tuned"], indexes["base"]
    aligned_gain = tuned.aligned_score_index - base.aligned_score_index
    score_gain, score_groups = take_known_pairs(aligned_gain, photos)
    gain = np.diag(tuned.index - base.index)
    comparisons = {
        "index": _estimate_gain(gain, groups),
        "manner": _estimate_manner(gain, score_gain, photos),
        "judgement": estimate_pairing(score_gain, score_groups),
    }
    if "few_shot" in indexes:
        few_shot_gain = np.diag(tuned.index - indexes["few_shot"].index)
        comparisons["index_few_shot"] = _estimate_gain(few_shot_gain, groups)
    raw_errors = {
        arm: _score_errors(photos, [raw_scores(photo[JUDGED_ARMS[arm]]) for photo in photos])
        for arm in ("base", "fine_tuned")
    }
    calibrated = [photo[JUDGED_ARMS["fine_tuned"]]["scores"] for photo in photos]
    constant = _score_errors(photos, metrics.predict_constant(report))
    pair_errors, pair_groups = metrics.compare_all_pairs(photos, "fine_tuned", raw_scores)
    return comparisons | {
        "score_error": _estimate_gain(raw_errors["base"] - raw_errors["fine_tuned"], groups),
        "constant": _estimate_gain(constant - _score_errors(photos, calibrated), groups),
        "vs_shuffled": estimate_pairing(-pair_errors, pair_groups),
    }


def decide_verdict(comparisons: dict[str, Estimate]) -> str:
    """Return the verdict; docs/evaluation.md says what each one means."""
    if comparisons["index"].is_below_zero or comparisons["score_error"].is_below_zero:
        return WORSE
    if all(comparisons[name].is_above_zero for name in REQUIRED_COMPARISONS):
        return BETTER
    return BETTER_MANNER if comparisons["manner"].is_above_zero else INCONCLUSIVE


def _estimate_manner(gain: FloatArray, score_gain: FloatArray, photos: Entries) -> Estimate:
    """Estimate the index gain without judgement, over the photos with scores if there are any.

    gain        index gain of each photo
    score_gain  gain by aligned scores, by pair of the photos with scores
    """
    scored = [i for i, photo in enumerate(photos) if photo["reference_scores"] is not None]
    groups = [photos[i]["photo_group"] for i in scored]
    if len(set(groups)) < 2:
        return _estimate_gain(gain, [photo["photo_group"] for photo in photos])
    pairs = average_pairs(score_gain, groups)
    manner = (
        average_by_group(gain[scored].tolist(), groups)
        - np.diag(pairs)
        + project_other_pairs(pairs)
    )
    return estimate_paired_difference(manner.tolist(), sorted(set(groups)))


def _score_errors(photos: Entries, scores: Iterable[Scores | None]) -> FloatArray:
    """Return the score error of each photo; NaN if a side has no scores."""
    references = [photo["reference_scores"] for photo in photos]
    return np.array(list(map(score_error, scores, references)))


def _estimate_gain(gains: FloatArray, groups: Sequence[str]) -> Estimate:
    """Estimate the mean gain over the photos for which it is known."""
    known = np.flatnonzero(np.isfinite(gains))
    if not len(known):
        return Estimate.unknown()
    return estimate_paired_difference(gains[known].tolist(), [groups[i] for i in known.tolist()])


def _compare_dimensions(photos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the adapter's error reduction in each dimension, p adjusted for seven tests.

    Scores are as generated.
    """
    arms = JUDGED_ARMS["base"], JUDGED_ARMS["fine_tuned"]
    photos = [
        photo
        for photo in photos
        if photo["reference_scores"] and all(photo[arm]["scores"] for arm in arms)
    ]
    if not photos:
        return {}
    reference = np.array([photo["reference_scores"] for photo in photos], float)
    base, tuned = (
        np.abs(np.array([raw_scores(photo[arm]) for photo in photos], float) - reference)
        for arm in arms
    )
    groups = [photo["photo_group"] for photo in photos]
    estimates = [estimate_paired_difference(r.tolist(), groups) for r in (base - tuned).T]
    adjusted = holm([estimate.p for estimate in estimates])
    return {
        name: _to_json(estimate) | {"p_holm": round(p, 4)}
        for name, estimate, p in zip(DIMENSIONS, estimates, adjusted, strict=True)
    }


def _to_json(estimate: Estimate) -> dict[str, Any]:
    """Round to four places, infinity becomes null; add whether it is surely above 0."""
    values = {
        name: (round(value, 4) if isfinite(value) else None) if isinstance(value, float) else value
        for name, value in asdict(estimate).items()
    }
    return values | {"above_zero": estimate.is_above_zero}
