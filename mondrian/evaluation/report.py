"""The HTML report of an evaluation: verdict, key numbers, plot, photos worst first, tables."""

from difflib import SequenceMatcher
from math import isnan
from pathlib import Path
from typing import Any

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique import radar
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS, JUDGED_ARMS
from mondrian.evaluation.forest_plot import build_forest_plot
from mondrian.evaluation.generation import parse_answer
from mondrian.evaluation.headline import can_crossvalidate_report, headline_verdict
from mondrian.evaluation.score_metrics import score_error
from mondrian.evaluation.summary import (
    COMPARISON_LABELS,
    describe_calibration,
    describe_failed_gates,
    describe_verdicts,
)

_MAX_PHOTOS, _OPEN_PHOTOS = 60, 6  # photos shown, and those with their critiques unfolded
_PHOTO_SIDE = 400  # pixels of the longer side
_PAIR = ("base", "fine_tuned")


def render_report(report: dict[str, Any], metrics: dict[str, Any], timing: dict[str, Any]) -> str:
    """Return the page as self-contained HTML."""
    photos = sorted(report["photographs"], key=_adapter_error, reverse=True)
    arms = [a for a in ("fine_tuned", *ARMS, "shuffled", "constant", "reference") if a in metrics]
    return render_template(
        "evaluation/comparison.html",
        advisor=report["advisor"],
        verdict=headline_verdict(metrics),
        verdict_lines=describe_verdicts(metrics, can_crossvalidate_report(report)),
        failed_gates=describe_failed_gates(metrics),
        calibration_notes=describe_calibration(metrics),
        forest=build_forest_plot(metrics),
        comparison_labels=COMPARISON_LABELS,
        num_valid=sum(photo["fine_tuned"]["compliant"] for photo in photos),
        metrics=metrics,
        arms={arm: metrics[arm] | timing.get(arm, {}) for arm in arms},
        pair={arm: metrics[arm] | timing[arm] for arm in _PAIR},
        folds=report.get("folds"),
        overhead=timing["overhead"],
        photos=[_build_photo(*item) for item in enumerate(photos[:_MAX_PHOTOS], 1)],
        radar_corners=radar.corner_points(),
        radar_labels=radar.dimension_labels(),
        num_open=_OPEN_PHOTOS,
        num_omitted=max(0, len(photos) - _MAX_PHOTOS),
        base_id=report["base"],
        adapter=report["adapter"],
        packages=report["packages"],
    )


def _adapter_error(photo: dict[str, Any]) -> float:
    """Return the adapter's score error; 10 for an answer without scores, -1 if text only."""
    if photo["reference_scores"] is None:
        return -1.0
    error = score_error(photo[JUDGED_ARMS["fine_tuned"]]["scores"], photo["reference_scores"])
    return 10.0 if isnan(error) else error


def _build_photo(number: int, photo: dict[str, Any]) -> dict[str, Any]:
    reference = photo["reference_scores"]
    base, tuned = (photo[JUDGED_ARMS[arm]]["scores"] for arm in _PAIR)
    colored = {"ink": reference, "three": base, "one": tuned}
    errors = {arm: score_error(photo[JUDGED_ARMS[arm]]["scores"], reference) for arm in _PAIR}
    return {
        "number": number,
        "id": photo["id"],
        "thumbnail": thumbnail_url(Path(photo["image"]), _PHOTO_SIDE),
        "radar": [
            (color, radar.polygon_points(s)) for color, s in colored.items() if s is not None
        ],
        "errors": {arm: "no scores" if isnan(e) else f"{e:.2f}" for arm, e in errors.items()},
        "text_only": reference is None,
        "fault": photo["fine_tuned"]["fault"],
        "dimensions": _build_dimensions(photo),
    }


def _build_dimensions(photo: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each dimension the advisor's score and comment, and those of base and adapter."""
    critiques = {arm: parse_answer(photo[JUDGED_ARMS[arm]]["text"]) for arm in _PAIR}
    scored = photo["reference_scores"] is not None
    dimensions = []
    for i, name in enumerate(DIMENSIONS):
        reference = photo["reference"]["dimensions"][i]
        cells: dict[str, Any] = {arm: {"score": "–", "change": "", "words": []} for arm in _PAIR}
        for arm, critique in critiques.items():
            if critique is not None:
                comment = critique.dimensions[i].comment
                score = photo[JUDGED_ARMS[arm]]["scores"][i]
                cells[arm] = {
                    "score": f"{score:g}",
                    "change": _format_change(score - reference["score"]) if scored else "",
                    "words": _mark_changed_words(comment, reference["comment"]),
                }
        score = f"{reference['score']:g}" if scored else "–"
        dimensions.append({"name": name, "score": score, "comment": reference["comment"], **cells})
    return dimensions


def _format_change(change: float) -> str:
    """Return how far a score is from the advisor's; nothing if they are equal."""
    return f"{change:+.3g}".replace("-", "\N{MINUS SIGN}") if round(change, 9) else ""


def _mark_changed_words(text: str, reference: str) -> list[tuple[str, bool]]:
    """Return runs of words, and whether they are missing in the advisor's comment."""
    words = text.split()
    blocks = SequenceMatcher(None, reference.split(), words, autojunk=False).get_opcodes()
    return [(" ".join(words[a:b]), kind != "equal") for kind, _, _, a, b in blocks if b > a]
