"""The report of an evaluation for people: verdict, charts, and every photograph, worst first."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import page, thumbnail_url
from mondrian.critique import radar
from mondrian.critique.parser import Recovered, recover
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS
from mondrian.evaluation.summary import COMPARED, interval, sentence

_WIDTH = 300  # of the chart of differences, in its own units
_SHOWN = 60  # photographs on the page


def comparison_page(report: dict[str, Any], found: dict[str, Any]) -> str:
    """The page as HTML, self-contained."""
    rows = sorted(report["photographs"], key=_badness, reverse=True)
    arms = [arm for arm in ("fine_tuned", *ARMS) if arm in rows[0]]
    return page(
        "evaluation/comparison.html",
        advisor=report["advisor"],
        verdict=found["verdict"],
        sentence=sentence(found),
        differences=_differences(found),
        gates=found["gates"],
        arms={arm: found[arm] for arm in (*arms, "constant", "reference")},
        pair={arm: found[arm] for arm in ("base", "fine_tuned")},
        folds=report.get("folds"),
        held={arm: found.get(f"{arm}_constrained", {}) for arm in ("base", "fine_tuned")},
        slower=found["gates"]["overhead"]["found"],
        dimensions=found["dimensions"],
        photographs=[_photograph(row) for row in rows[:_SHOWN]],
        corners=radar.corners(),
        names=radar.names(),
        left_out=max(0, len(rows) - _SHOWN),
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


def _differences(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A line and a dot for each comparison, on a scale of its own with 0 in it."""
    out = []
    for name, one in found["comparisons"].items():
        entry: dict[str, Any] = {"title": COMPARED[name], "told": interval(one), "name": name}
        if one["low"] is not None and one["high"] is not None:
            low, high = min(0.0, one["low"]), max(0.0, one["high"])
            span = (high - low) or 1.0
            entry |= {
                key: round(10 + (_WIDTH - 20) * (value - low) / span, 1)
                for key, value in (("zero", 0.0), ("low", one["low"]), ("high", one["high"]),
                                   ("mean", one["mean"]))
            }  # fmt: skip
        detectable = one["detectable"]
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
                ("ink", row["reference_scores"]), ("three", row["base"]["scores"]),
                ("one", row["fine_tuned"]["scores"]),
            )
            if scores is not None
        ],
        "error": {arm: _told_error(row[arm]["scores"], row) for arm in ("base", "fine_tuned")},
        "fault": row["fine_tuned"]["fault"],
        "seconds": {arm: row[arm]["seconds"] for arm in ("base", "fine_tuned")},
        "lines": _lines(row),
    }  # fmt: skip


def _told_error(scores: Any, row: dict[str, Any]) -> str:
    if scores is None:
        return "no scores"
    return f"{np.abs(np.subtract(scores, row['reference_scores'])).mean():.2f}"


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Each dimension: scores, the advisor's comment, and those of both arms against it."""
    reference = row["reference"]["dimensions"]
    told = {arm: _critique(row[arm]["text"]) for arm in ("base", "fine_tuned")}
    out = []
    for i, name in enumerate(DIMENSIONS):
        cells: dict[str, Any] = {}
        for arm, critique in told.items():
            if critique is None:
                cells[arm] = {"score": "-", "words": []}
                continue
            one = critique.dimensions[i]
            words = _marked(one.comment, reference[i]["comment"])
            cells[arm] = {"score": f"{one.score:g}", "words": words}
        out.append({"name": name, "score": f"{reference[i]['score']:g}",
                    "comment": reference[i]["comment"], **cells})  # fmt: skip
    return out


def _critique(text: str) -> Any:
    found = recover(text)
    return found.critique if isinstance(found, Recovered) else None


def _marked(text: str, reference: str) -> list[tuple[str, bool]]:
    """Runs of words, and whether the advisor's comment lacks them."""
    told, wanted = text.split(), reference.split()
    blocks = SequenceMatcher(None, wanted, told, autojunk=False).get_opcodes()
    return [(" ".join(told[a:b]), kind != "equal") for kind, _, _, a, b in blocks if b > a]
