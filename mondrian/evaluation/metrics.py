"""Metrics of each arm; docs/evaluation.md gives formulas and sources.

Everything here is computed from comparison_report.json alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.core.params import IndexWeights
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import JUDGED_ARMS
from mondrian.evaluation.consistency import compute_consistency
from mondrian.evaluation.quality_index import (
    ArmIndex,
    Entries,
    compute_arm_indexes,
    take_known_pairs,
)
from mondrian.evaluation.score_metrics import pair_errors, raw_scores, score_metrics
from mondrian.evaluation.statistics import average_pairs, estimate_proportion, project_other_pairs
from mondrian.evaluation.text_metrics import compute_text_metrics

# score metrics that a calibrated arm has twice; those before calibration begin with raw_
RAW_METRICS = ("score_mae", "score_bias", "score_kappa", "score_mae_by_dimension")


def compute_indexes(report: dict[str, Any], weights: IndexWeights) -> dict[str, ArmIndex]:
    """Return the quality index of each arm with answers, of all pairs of answer and reference."""
    photos = report["photographs"]
    arms: dict[str, Entries] = {
        arm: [photo[name] for photo in photos]
        for arm, name in JUDGED_ARMS.items()
        if name in photos[0]
    }
    return compute_arm_indexes(arms, photos, predict_constant(report), weights)


def compute_arm_metrics(report: dict[str, Any], indexes: dict[str, ArmIndex]) -> dict[str, Any]:
    """Return the metrics of each arm, of the constant predictor and of the advisor's critiques.

    Scores and texts are of the judged answers, format metrics of the raw answers.
    """
    photos = report["photographs"]
    metrics: dict[str, Any] = {
        arm: _judged_metrics(photos, arm, index) for arm, index in indexes.items()
    }
    for arm in ("base", "fine_tuned"):
        metrics[arm] |= _format_metrics(photos, arm)
    for arm, changes in compute_consistency(photos).items():
        metrics[arm]["consistency"] = changes
    metrics["shuffled"] = _shuffled_metrics(report, indexes["fine_tuned"])
    metrics["constant"] = _compare_scores(predict_constant(report).tolist(), photos)
    texts = [photo["reference_text"] for photo in photos]
    copied = [photo["reference_copied"] for photo in photos]
    metrics["reference"] = compute_text_metrics(texts, texts, copied)
    return metrics


def _shuffled_metrics(report: dict[str, Any], tuned: ArmIndex) -> dict[str, Any]:
    """Return the metrics of the adapter's answers against the references of other photos."""
    photos = report["photographs"]
    shuffled = {
        "score_mae": _mean_of_other_pairs(*compare_all_pairs(photos, "fine_tuned"), 4),
        "quality_index": _mean_of_other_pairs(*take_known_pairs(tuned.index, photos), 2),
    }
    if report.get("calibration"):
        raw_pairs = compare_all_pairs(photos, "fine_tuned", raw_scores)
        shuffled["raw_score_mae"] = _mean_of_other_pairs(*raw_pairs, 4)
    return shuffled


def compare_all_pairs(
    photos: Entries, arm: str, get_scores: Callable[[Any], Any] = itemgetter("scores")
) -> tuple[FloatArray, list[str]]:
    """Return the score errors of all pairs of judged answer and reference, and their groups.

    The photos are those with scores on both sides.
    """
    name = JUDGED_ARMS[arm]
    scored = [p for p in photos if p["reference_scores"] is not None and p[name]["scores"]]
    scores = [get_scores(p[name]) for p in scored], [p["reference_scores"] for p in scored]
    answers, references = (np.array(s, float).reshape(-1, len(DIMENSIONS)) for s in scores)
    return pair_errors(answers, references), [photo["photo_group"] for photo in scored]


def predict_constant(report: dict[str, Any]) -> FloatArray:
    """Return the constant prediction, the median scores of train, for each photo: (photos, 7)."""
    default = report["train_score_medians"]
    medians = [photo.get("train_score_medians", default) for photo in report["photographs"]]
    return np.array([[scores[name] for name in DIMENSIONS] for scores in medians], float)


def _mean_of_other_pairs(values: FloatArray, groups: Sequence[str], digits: int) -> float | None:
    if len(set(groups)) < 2:
        return None
    return round(float(project_other_pairs(average_pairs(values, groups)).mean()), digits)


def _judged_metrics(photos: Entries, arm: str, index: ArmIndex) -> dict[str, Any]:
    answers = [photo[JUDGED_ARMS[arm]] for photo in photos]
    tokens, passes = (_mean([answer[key] for answer in answers]) for key in ("tokens", "passes"))
    texts = [answer["text"] for answer in answers]
    references = [photo["reference_text"] for photo in photos]
    return {
        **_compare_scores([answer["scores"] for answer in answers], photos),
        **_raw_score_metrics(answers, photos),
        **index.summarize(),
        **compute_text_metrics(texts, references, [answer["copied"] for answer in answers]),
        "tokens_per_critique": round(tokens, 1),
        "passes_per_critique": round(passes, 1),
    }


def _raw_score_metrics(answers: Entries, photos: Entries) -> dict[str, Any]:
    """Return the score metrics before calibration; nothing if the answers are not calibrated."""
    if not any("raw_scores" in answer for answer in answers):
        return {}
    metrics = _compare_scores([raw_scores(answer) for answer in answers], photos)
    return {f"raw_{name}": metrics[name] for name in RAW_METRICS}


def _format_metrics(photos: Entries, arm: str) -> dict[str, Any]:
    """Return how many raw answers are critiques, and why the others are not."""
    answers = [photo[arm] for photo in photos]
    compliance, low, high = estimate_proportion(sum(a["compliant"] for a in answers), len(answers))
    faults = Counter(answer["fault"].split(":")[0] for answer in answers if answer["fault"])
    return {
        "format_compliance": round(compliance, 4),
        "format_compliance_interval": [round(low, 4), round(high, 4)],
        "compliance": {
            "raw": round(compliance, 4),
            "repaired": _mean([answer["scores"] is not None for answer in answers]),
            "constrained": _mean([photo[JUDGED_ARMS[arm]]["compliant"] for photo in photos]),
        },
        "faults": dict(faults.most_common()),
        "ended": _mean([answer["ended"] for answer in answers]),
    }


def _compare_scores(predicted: Sequence[Sequence[float] | None], photos: Entries) -> dict[str, Any]:
    """Return the number of answers with scores to photos with scores, and the score metrics."""
    pairs = [
        (scores, photo["reference_scores"])
        for scores, photo in zip(predicted, photos, strict=True)
        if scores is not None and photo["reference_scores"] is not None
    ]
    answer_scores, references = (
        np.array([pair[i] for pair in pairs], float).reshape(-1, len(DIMENSIONS)) for i in (0, 1)
    )
    return {"scored": len(pairs), **score_metrics(answer_scores, references)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
