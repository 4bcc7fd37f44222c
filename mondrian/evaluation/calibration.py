"""Fit the score calibration of each arm on val photos; docs/evaluation.md explains the choices.

calibrated = median + weight * (score - median), with the median of the advisor's scores in train.
The scores of a photo are calibrated with weights fitted on the other photo groups, so that no
photo judges with weights that it chose. What is shipped is fitted on all photos.
"""

from math import sqrt
from typing import Any

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.critique.calibration import calibrate_score, find_step
from mondrian.critique.rows import MIN_GROUPS
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import JUDGED_ARMS
from mondrian.evaluation.metrics import predict_constant
from mondrian.evaluation.quality_index import Entries
from mondrian.evaluation.score_metrics import raw_scores
from mondrian.evaluation.statistics import group_weights

_WEIGHTS = np.linspace(0, 1, 21)
_COMMON_PHOTOS = 400  # what the errors of all dimensions together count for in each of them
_TOLERANCE = 0.5  # standard errors by which errors with two weights may differ by chance
_ROUNDING = 1e-9  # differences of errors below it are what rounding left


def calibrate_report(report: dict[str, Any], enabled: bool) -> dict[str, Any]:
    """Return the report with calibrated `scores` in the judged answers, next to `raw_scores`.

    `calibration` has medians, weights by arm, and the step; None if it is off, or if fewer than
    MIN_GROUPS photo groups have scores. A report that is calibrated already is calibrated anew.
    """
    photos = [_restore_raw_scores(photo) for photo in report["photographs"]]
    report = report | {"photographs": photos, "calibration": None}
    if not enabled:
        return report
    medians = predict_constant(report)
    references = [p["reference_scores"] for p in photos if p["reference_scores"] is not None]
    step = find_step([score for scores in references for score in scores])
    weights: dict[str, dict[str, float]] = {}
    for arm, name in JUDGED_ARMS.items():
        fitted = _fit_arm(photos, name, medians, step) if name in photos[0] else None
        if fitted is None:
            continue
        by_photo, shipped = fitted
        _calibrate_answers(photos, name, (medians, by_photo, step))
        weights[arm] = dict(zip(DIMENSIONS, shipped.tolist(), strict=True))
    if not weights:
        return report
    calibration = {
        "adapter_version": report["adapter"]["version"],
        "medians": report["train_score_medians"],
        "weights": weights,
        "step": step,
    }
    return report | {"calibration": calibration}


def apply_calibration(report: dict[str, Any], calibration: dict[str, Any] | None) -> dict[str, Any]:
    """Return the report with scores calibrated by weights that its photos did not choose.

    calibration  that of another report, as `calibrate_report` returns it
    """
    report = calibrate_report(report, enabled=False)
    if calibration is None:
        return report
    photos = report["photographs"]
    medians = _repeat(calibration["medians"], len(photos))
    for arm, weights in calibration["weights"].items():
        if (name := JUDGED_ARMS[arm]) in photos[0]:
            by_photo = _repeat(weights, len(photos))
            _calibrate_answers(photos, name, (medians, by_photo, calibration["step"]))
    return report | {"calibration": calibration}


def _restore_raw_scores(photo: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in JUDGED_ARMS.values() if name in photo]
    return photo | {name: photo[name] | {"scores": raw_scores(photo[name])} for name in names}


def _repeat(values: dict[str, float], count: int) -> FloatArray:
    """Return one value per dimension for each photo: (photos, 7)."""
    return np.tile([values[name] for name in DIMENSIONS], (count, 1))


def _calibrate_answers(
    photos: Entries, name: str, calibration: tuple[FloatArray, FloatArray, float]
) -> None:
    """Calibrate the answers `name` in place, with medians and weights of each photo, and a step."""
    medians, weights, step = calibration
    for photo, median, weight in zip(photos, medians, weights, strict=True):
        photo[name] = _calibrate_answer(photo[name], median, weight, step)


def _calibrate_answer(
    answer: dict[str, Any], medians: FloatArray, weights: FloatArray, step: float
) -> dict[str, Any]:
    scores = answer["scores"]
    if scores is None:
        return answer
    values = zip(scores, medians.tolist(), weights.tolist(), strict=True)
    return answer | {"raw_scores": scores, "scores": [calibrate_score(*v, step) for v in values]}


def _fit_arm(
    photos: Entries, name: str, medians: FloatArray, step: float
) -> tuple[FloatArray, FloatArray] | None:
    """Return the weights for each photo, fitted on other groups, and those of all photos."""
    known = [
        i
        for i, photo in enumerate(photos)
        if photo["reference_scores"] is not None and photo[name]["scores"] is not None
    ]
    groups = [photos[i]["photo_group"] for i in known]
    names = sorted(set(groups))
    if len(names) < MIN_GROUPS:
        return None
    scores = np.array([photos[i][name]["scores"] for i in known], float)
    references = np.array([photos[i]["reference_scores"] for i in known], float)
    errors = _grid_errors(scores, references, medians[known], step)
    by_photo_errors = errors.reshape(len(known), -1)
    by_group = (group_weights(groups) @ by_photo_errors).reshape(-1, *errors.shape[1:])
    others = [fit_weights(np.delete(by_group, i, axis=0)) for i in range(len(names))]
    shipped = fit_weights(by_group)
    by_photo = np.tile(shipped, (len(photos), 1))  # also of photos that have nothing to fit
    for i, photo in enumerate(photos):
        if photo["photo_group"] in names:
            by_photo[i] = others[names.index(photo["photo_group"])]
    return by_photo, shipped


def _grid_errors(
    scores: FloatArray, references: FloatArray, medians: FloatArray, step: float
) -> FloatArray:
    """Return the absolute errors of scores (photos, 7) with each weight: (photos, 7, weights)."""
    moved = medians[..., None] + _WEIGHTS * (scores - medians)[..., None]
    calibrated = np.rint((moved / step).round(6)) * step  # as calibrate_score does
    errors: FloatArray = np.abs(calibrated - references[..., None])
    return errors


def fit_weights(errors: FloatArray) -> FloatArray:
    """Return the weight of each dimension from errors (groups, 7, weights) of independent groups.

    A dimension's error with a weight is drawn towards that of all dimensions: few photos tell more
    about all of them than about each. Of the weights that are within _TOLERANCE of the best one,
    the lowest is taken, since a gain over the constant varies less then. Where the constant is
    closer to the advisor's scores by more than _TOLERANCE, the weight is 0.
    """
    count = len(errors)
    common = errors.mean(axis=1, keepdims=True)
    pooled = (count * errors + _COMMON_PHOTOS * common) / (count + _COMMON_PHOTOS)
    best = pooled.mean(axis=0).argmin(axis=1)
    excess = pooled - np.take_along_axis(pooled, best[None, :, None], axis=2)
    tolerance = _TOLERANCE * excess.std(axis=0, ddof=1) / sqrt(count)
    chosen = (excess.mean(axis=0) <= tolerance + _ROUNDING).argmax(axis=1)
    gains = errors[..., 0] - np.take_along_axis(errors, chosen[None, :, None], axis=2)[..., 0]
    highest_gain = gains.mean(axis=0) + _TOLERANCE * gains.std(axis=0, ddof=1) / sqrt(count)
    weights: FloatArray = _WEIGHTS[np.where(highest_gain > _ROUNDING, chosen, 0)].round(2)
    return weights
