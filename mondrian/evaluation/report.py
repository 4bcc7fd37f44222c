"""The report of an evaluation for people: verdict, charts, and every photograph, worst first."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique import radar
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.summary import COMPARISON_LABELS, describe_verdict, format_mean_interval

_WIDTH = 300  # of the chart of differences, in its own units
_MAX_PHOTOS = 60  # photographs on the page


def comparison_page(report: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The page as HTML, self-contained."""
    rows = sorted(report["photographs"], key=_badness, reverse=True)
    arms = [arm for arm in ("fine_tuned", *ARMS) if arm in rows[0]]
    return render_template(
        "evaluation/comparison.html",
        advisor=report["advisor"],
        verdict=metrics["verdict"],
        sentence=describe_verdict(metrics),
        differences=_differences(metrics),
        gates=metrics["gates"],
        arms={arm: metrics[arm] for arm in (*arms, "constant", "reference")},
        pair={arm: metrics[arm] for arm in ("base", "fine_tuned")},
        folds=report.get("folds"),
        held={arm: metrics.get(f"{arm}_constrained", {}) for arm in ("base", "fine_tuned")},
        slower=metrics["gates"]["overhead"]["value"],
        dimensions=metrics["dimensions"],
        photographs=[_photograph(row) for row in rows[:_MAX_PHOTOS]],
        corners=radar.corners(),
        names=radar.dimension_labels(),
        left_out=max(0, len(rows) - _MAX_PHOTOS),
        base=report["base"],
        adapter=report["adapter"],
        packages=report["packages"],
    )


def _badness(row: dict[str, Any]) -> float:
    """The adapter's score error; an answer without scores is worst."""
    scores = row["fine_tuned"]["scores"]
    if scores is None:
        return 10.0
    return float(np.abs(np.subtract(scores, row["reference_scores"])).mean())


def _differences(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """A line and a dot for each comparison, on a scale of its own with 0 in it."""
    out = []
    for name, estimate in metrics["comparisons"].items():
        entry: dict[str, Any] = {
            "title": COMPARISON_LABELS[name],
            "told": format_mean_interval(estimate),
            "name": name,
        }
        if estimate["low"] is not None and estimate["high"] is not None:
            low, high = min(0.0, estimate["low"]), max(0.0, estimate["high"])
            span = (high - low) or 1.0
            entry |= {
                key: round(10 + (_WIDTH - 20) * (value - low) / span, 1)
                for key, value in (
                    ("zero", 0.0),
                    ("low", estimate["low"]),
                    ("high", estimate["high"]),
                    ("mean", estimate["mean"]),
                )
            }
        detectable = estimate["detectable"]
        entry["detectable"] = f"{detectable:.2f}" if detectable else None
        out.append(entry)
    return out


def _photograph(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "picture": thumbnail_url(Path(row["image"])),
        "radar": [
            (color, radar.polygon(scores))
            for color, scores in (
                ("ink", row["reference_scores"]),
                ("three", row["base"]["scores"]),
                ("one", row["fine_tuned"]["scores"]),
            )
            if scores is not None
        ],
        "error": {
            arm: _format_score_error(row[arm]["scores"], row) for arm in ("base", "fine_tuned")
        },
        "fault": row["fine_tuned"]["fault"],
        "seconds": {arm: row[arm]["seconds"] for arm in ("base", "fine_tuned")},
        "lines": _lines(row),
    }


def _format_score_error(scores: Any, row: dict[str, Any]) -> str:
    if scores is None:
        return "no scores"
    return f"{np.abs(np.subtract(scores, row['reference_scores'])).mean():.2f}"


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Each dimension: scores, the advisor's comment, and those of both arms against it."""
    reference = row["reference"]["dimensions"]
    critiques = {arm: _critique(row[arm]["text"]) for arm in ("base", "fine_tuned")}
    out = []
    for i, name in enumerate(DIMENSIONS):
        cells: dict[str, Any] = {}
        for arm, critique in critiques.items():
            if critique is None:
                cells[arm] = {"score": "-", "words": []}
                continue
            dimension = critique.dimensions[i]
            words = _mark_changed_words(dimension.comment, reference[i]["comment"])
            cells[arm] = {"score": f"{dimension.score:g}", "words": words}
        out.append(
            {
                "name": name,
                "score": f"{reference[i]['score']:g}",
                "comment": reference[i]["comment"],
                **cells,
            }
        )
    return out


def _critique(text: str) -> Any:
    parsed = parse_critique(text)
    return parsed.critique if isinstance(parsed, ParsedCritique) else None


def _mark_changed_words(text: str, reference: str) -> list[tuple[str, bool]]:
    """Runs of words, and whether the advisor's comment lacks them."""
    words, reference_words = text.split(), reference.split()
    blocks = SequenceMatcher(None, reference_words, words, autojunk=False).get_opcodes()
    return [(" ".join(words[a:b]), kind != "equal") for kind, _, _, a, b in blocks if b > a]
