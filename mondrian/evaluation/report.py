"""The HTML report of an evaluation: verdict, charts, and every photo, worst first."""

from difflib import SequenceMatcher
from math import isnan
from pathlib import Path
from typing import Any

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique import radar
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.generation import parse_answer
from mondrian.evaluation.score_metrics import score_error
from mondrian.evaluation.summary import COMPARISON_LABELS, describe_verdict, format_mean_interval

_CHART_WIDTH, _CHART_MARGIN = 300, 10  # SVG units of the interval charts
_MAX_PHOTOS = 60
_PAIR = ("base", "fine_tuned")


def render_report(report: dict[str, Any], metrics: dict[str, Any], timing: dict[str, Any]) -> str:
    """Return the page as self-contained HTML."""
    photos = sorted(report["photographs"], key=_adapter_error, reverse=True)
    arms = [arm for arm in ("fine_tuned", *ARMS) if arm in photos[0]]
    return render_template(
        "evaluation/comparison.html",
        advisor=report["advisor"],
        verdict=metrics["verdict"],
        verdict_text=describe_verdict(metrics),
        comparisons=[_build_comparison(*item) for item in metrics["comparisons"].items()],
        gates=metrics["gates"],
        arms={arm: metrics[arm] | timing.get(arm, {}) for arm in (*arms, "constant", "reference")},
        pair={arm: metrics[arm] | timing[arm] for arm in _PAIR},
        folds=report.get("folds"),
        constrained={arm: metrics.get(f"{arm}_constrained", {}) for arm in _PAIR},
        overhead=timing["overhead"],
        dimensions=metrics["dimensions"],
        photos=[_build_photo(photo) for photo in photos[:_MAX_PHOTOS]],
        radar_corners=radar.corner_points(),
        radar_labels=radar.dimension_labels(),
        num_omitted=max(0, len(photos) - _MAX_PHOTOS),
        base=report["base"],
        adapter=report["adapter"],
        packages=report["packages"],
    )


def _adapter_error(photo: dict[str, Any]) -> float:
    """Return the adapter's score error; 10 for an answer without scores, -1 if text only."""
    if photo["reference_scores"] is None:
        return -1.0
    error = score_error(photo["fine_tuned"]["scores"], photo["reference_scores"])
    return 10.0 if isnan(error) else error


def _build_comparison(name: str, estimate: dict[str, Any]) -> dict[str, Any]:
    """Return title and text of a comparison, and its chart on its own scale that includes 0."""
    low, high, detectable = estimate["low"], estimate["high"], estimate["detectable"]
    comparison: dict[str, Any] = {
        "title": COMPARISON_LABELS[name],
        "text": format_mean_interval(estimate),
        "detectable": f"{detectable:.2f}" if detectable else None,
    }
    if low is not None and high is not None:
        start, end = min(0.0, low), max(0.0, high)
        scale = (_CHART_WIDTH - 2 * _CHART_MARGIN) / ((end - start) or 1.0)
        values = {"zero": 0.0, "low": low, "high": high, "mean": estimate["mean"]}
        comparison["chart"] = {
            key: round(_CHART_MARGIN + scale * (value - start), 1) for key, value in values.items()
        }
    return comparison


def _build_photo(photo: dict[str, Any]) -> dict[str, Any]:
    reference = photo["reference_scores"]
    base, tuned = photo["base"]["scores"], photo["fine_tuned"]["scores"]
    colored = {"ink": reference, "three": base, "one": tuned}
    errors = {arm: score_error(photo[arm]["scores"], reference) for arm in _PAIR}
    return {
        "id": photo["id"],
        "thumbnail": thumbnail_url(Path(photo["image"])),
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
    critiques = {arm: parse_answer(photo[arm]["text"]) for arm in _PAIR}
    dimensions = []
    for i, name in enumerate(DIMENSIONS):
        reference = photo["reference"]["dimensions"][i]
        cells: dict[str, Any] = {arm: {"score": "-", "words": []} for arm in _PAIR}
        for arm, critique in critiques.items():
            if critique is not None:
                answer = critique.dimensions[i]
                changed = _mark_changed_words(answer.comment, reference["comment"])
                cells[arm] = {"score": f"{answer.score:g}", "words": changed}
        score = "-" if photo["reference_scores"] is None else f"{reference['score']:g}"
        dimensions.append({"name": name, "score": score, "comment": reference["comment"], **cells})
    return dimensions


def _mark_changed_words(text: str, reference: str) -> list[tuple[str, bool]]:
    """Return runs of words, and whether they are missing in the advisor's comment."""
    words = text.split()
    blocks = SequenceMatcher(None, reference.split(), words, autojunk=False).get_opcodes()
    return [(" ".join(words[a:b]), kind != "equal") for kind, _, _, a, b in blocks if b > a]
