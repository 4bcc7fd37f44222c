"""Metrics of each arm and the quality index; docs/evaluation.md gives formulas and sources.

Everything here is computed from comparison_report.json alone.
"""

from collections import Counter
from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.core.params import EvaluateParams, IndexWeights
from mondrian.critique.schema import DIMENSIONS, SCORE_VALUE
from mondrian.evaluation.arms import ARMS, CONSTRAINED_ARMS
from mondrian.evaluation.consistency import compute_consistency
from mondrian.evaluation.score_metrics import CHANCE_ERROR, score_error, score_metrics
from mondrian.evaluation.statistics import estimate_proportion
from mondrian.evaluation.text_metrics import chrf, compute_text_metrics


def compute_arm_metrics(report: dict[str, Any], params: EvaluateParams) -> dict[str, Any]:
    """Return the metrics of each arm, of the constant predictor and of the advisor's critiques."""
    photos = report["photographs"]
    arms = [arm for arm in (*ARMS, *CONSTRAINED_ARMS) if arm in photos[0]]
    metrics: dict[str, Any] = {arm: _arm_metrics(photos, arm, params) for arm in arms}
    for constrained_arm, arm in CONSTRAINED_ARMS.items():
        if constrained_arm in metrics:
            metrics[arm]["compliance"] = {
                "raw": metrics[arm]["format_compliance"],
                "repaired": _mean([photo[arm]["scores"] is not None for photo in photos]),
                "constrained": metrics[constrained_arm]["format_compliance"],
            }
    for arm, changes in compute_consistency(photos).items():
        metrics[arm]["consistency"] = changes
    constant = predict_constant(report).tolist()
    metrics["constant"] = {"format_compliance": 1.0, **_compare_scores(constant, photos)}
    texts = [photo["reference_text"] for photo in photos]
    copied = [photo["reference_copied"] for photo in photos]
    metrics["reference"] = compute_text_metrics(texts, texts, copied)
    return metrics


def predict_constant(report: dict[str, Any]) -> FloatArray:
    """Return the constant prediction, the mean scores of train, for each photo: (photos, 7)."""
    default = report["train_score_means"]
    mean_scores = [photo.get("train_score_means", default) for photo in report["photographs"]]
    return np.array([[scores[name] for name in DIMENSIONS] for scores in mean_scores], float)


def _arm_metrics(
    photos: Sequence[dict[str, Any]], arm: str, params: EvaluateParams
) -> dict[str, Any]:
    answers = [photo[arm] for photo in photos]
    count = len(answers)
    tokens, passes = (sum(answer[key] for answer in answers) for key in ("tokens", "passes"))
    texts = [answer["text"] for answer in answers]
    references = [photo["reference_text"] for photo in photos]
    parts = compute_index_parts(answers, photos)
    index = [value for value in compute_quality_index(parts, params.index) if isfinite(value)]
    compliance, low, high = estimate_proportion(sum(a["compliant"] for a in answers), count)
    faults = Counter(answer["fault"].split(":")[0] for answer in answers if answer["fault"])
    return {
        "format_compliance": round(compliance, 4),
        "format_compliance_interval": [round(low, 4), round(high, 4)],
        "faults": dict(faults.most_common()),
        "ended": _mean([answer["ended"] for answer in answers]),
        **_compare_scores([answer["scores"] for answer in answers], photos),
        "quality_index": round(float(np.mean(index)), 2) if index else None,
        "index_parts": {
            name: _mean([part[name] for part in parts if name in part])
            for name in IndexWeights.model_fields
            if any(name in part for part in parts)
        },
        **compute_text_metrics(texts, references, [answer["copied"] for answer in answers]),
        "tokens_per_critique": round(tokens / count, 1),
        "passes_per_critique": round(passes / count, 1),
    }


def _compare_scores(
    predicted: Sequence[Sequence[float] | None], photos: Sequence[dict[str, Any]]
) -> dict[str, Any]:
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


def compute_index_parts(
    answers: Sequence[dict[str, Any]], photos: Sequence[dict[str, Any]]
) -> list[dict[str, float]]:
    """Return the parts of each answer: all four, or format and text of a photo without scores.

    The report entries of the photos hold the references.
    """
    scored = [i for i, photo in enumerate(photos) if photo["reference_scores"] is not None]
    references = np.array([photos[i]["reference_scores"] for i in scored], float)
    parts = [
        {"format": _format_part(answer), "text": _text_part(answer["text"], photo)}
        for answer, photo in zip(answers, photos, strict=True)
    ]
    for row, i in enumerate(scored):
        scores = answers[i]["scores"]
        parts[i]["scores"] = _score_accuracy(scores, references[row])
        parts[i]["grounding"] = _grounding(scores, references, row)
    return parts


def compute_quality_index(parts: Sequence[dict[str, float]], weights: IndexWeights) -> list[float]:
    """Return the weighted mean of the parts that each answer has, 0 to 100.

    Which parts a photo's answers have is the same in every arm. NaN if none of them has a weight.
    """
    shares = weights.model_dump()
    totals = (sum(shares[name] for name in part) for part in parts)
    return [
        100 * sum(shares[name] * part[name] for name in shares if name in part) / total
        if total
        else nan
        for part, total in zip(parts, totals, strict=True)
    ]


def _format_part(answer: dict[str, Any]) -> float:
    if answer["compliant"]:
        return 1.0
    return 0.0 if answer["scores"] is None else 0.5  # 0.5 if it is a critique only after repair


def _text_part(text: str, photo: dict[str, Any]) -> float:
    """Return chrF; digits of scores do not count if the reference has none of its own."""
    texts = text, photo["reference_text"]
    if photo["reference_scores"] is None:
        texts = SCORE_VALUE.sub("", texts[0]), SCORE_VALUE.sub("", texts[1])
    return chrf(*texts)


def _score_accuracy(scores: Sequence[float] | None, reference: FloatArray) -> float:
    """Return 1 for the advisor's own scores, 0 if the error is that of uniformly random scores."""
    return 0.0 if scores is None else max(0.0, 1 - score_error(scores, reference) / CHANCE_ERROR)


def _grounding(scores: Sequence[float] | None, references: FloatArray, i: int) -> float:
    """Return the share of other references that are further away, ties half: 0.5 by chance."""
    if scores is None:
        return 0.0
    others = np.delete(references, i, axis=0)
    others = others[np.abs(others - references[i]).sum(axis=1) > 0]
    if not len(others):
        return 0.5
    error = np.abs(np.array(scores) - references[i]).mean()
    other_errors = np.abs(np.array(scores) - others).mean(axis=1)
    return float((other_errors > error).mean() + 0.5 * (other_errors == error).mean())
