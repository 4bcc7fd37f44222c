"""What is measured of each arm; docs/evaluation.md gives every measure's formula and source.

Everything here is computed from comparison_report.json alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mondrian.core.params import Evaluate
from mondrian.critique.schema import DIMENSIONS
from mondrian.evaluation.arms import ARMS, CONSTRAINED
from mondrian.evaluation.perturbations import DRAWN
from mondrian.evaluation.quality_index import index, parts_of
from mondrian.evaluation.score_metrics import score_metrics
from mondrian.evaluation.statistics import share
from mondrian.evaluation.text_metrics import repeated_across, repetition, script, specificity, words


def measures(report: dict[str, Any], params: Evaluate) -> dict[str, Any]:
    """Each arm's measures, those of a constant, and those of the advisor's own critiques."""
    rows = report["photographs"]
    wanted = np.array([row["reference_scores"] for row in rows], float)
    arms = [arm for arm in (*ARMS, *CONSTRAINED) if arm in rows[0]]
    out: dict[str, Any] = {arm: _arm(report, arm, wanted, params) for arm in arms}
    for held, arm in CONSTRAINED.items():
        if held in out:
            out[arm]["compliance"] = {
                "raw": out[arm]["format_compliance"],
                "repaired": round(out[arm]["scored"] / len(rows), 4),
                "constrained": out[held]["format_compliance"],
            }
    for arm, moves in _consistency(rows).items():
        out[arm]["consistency"] = moves
    for arm, told in report["cost"].items():
        out[arm]["cost"] = told
    out["constant"] = {"format_compliance": 1.0, "scored": len(rows)}
    out["constant"] |= score_metrics(means(report), wanted)
    texts = [row["reference_text"] for row in rows]
    out["reference"] = _texts(texts, texts, [row["reference_copied"] for row in rows])
    return out


def means(report: dict[str, Any]) -> Any:
    """What the constant predictor says of each photograph: the mean scores of train, (n, 7)."""
    said = [row.get("train_score_means", report["train_score_means"])
            for row in report["photographs"]]  # fmt: skip
    return np.array([[one[name] for name in DIMENSIONS] for one in said], float)


def _arm(report: dict[str, Any], arm: str, wanted: Any, params: Evaluate) -> dict[str, Any]:
    rows = report["photographs"]
    told = [row[arm] for row in rows]
    scored = [i for i, one in enumerate(told) if one["scores"] is not None]
    scores = np.array([told[i]["scores"] for i in scored], float).reshape(-1, len(DIMENSIONS))
    seconds, tokens = (sum(one[key] for one in told) for key in ("seconds", "tokens"))
    parts = parts_of(told, rows)
    compliance, low, high = share(sum(one["compliant"] for one in told), len(told))
    faults = Counter(one["fault"].split(":")[0] for one in told if one["fault"])
    return {
        "format_compliance": round(compliance, 4),
        "format_compliance_interval": [round(low, 4), round(high, 4)],
        "faults": dict(faults.most_common()),
        "ended": _mean([one["ended"] for one in told]),
        "scored": len(scored),
        **score_metrics(scores, wanted[scored]),
        "quality_index": round(float(np.mean(index(parts, params.index))), 2),
        "index_parts": {name: _mean([one[name] for one in parts]) for name in parts[0]},
        **_texts(
            [one["text"] for one in told], [row["reference_text"] for row in rows],
            [one["copied"] for one in told],
        ),
        "seconds_per_critique": round(seconds / len(told), 3),
        "tokens_per_critique": round(tokens / len(told), 1),
        "passes_per_critique": round(sum(one["passes"] for one in told) / len(told), 1),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }  # fmt: skip


def _texts(told: Sequence[str], wanted: Sequence[str], copied: Sequence[bool]) -> dict[str, Any]:
    pairs = list(zip(told, wanted, strict=True))
    return {
        "specificity": _mean(specificity(told)),
        "repetition": _mean([repetition(text) for text in told]),
        "repeated_across": _mean(repeated_across(told)),
        "copied": _mean(copied),
        "right_language": _mean([script(a) == script(b) for a, b in pairs]),
        "length": _mean([len(words(a)) / max(1, len(words(b))) for a, b in pairs]),
    }


def _consistency(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By how much a score moves, in points of 10, by arm and by what was altered.

    Against the answer to the photograph as it is, held to the schema too; `drawn` is the standard
    deviation over the draws of one photograph.
    """
    found: dict[str, dict[str, float]] = {}
    again = [row for row in rows if "again" in row]
    for arm in again[0]["again"] if again else ():
        moves: dict[str, list[float]] = {}
        for row in again:
            plain = np.array(row[f"{arm}_constrained"]["scores"], float)
            told = [(one["variant"], np.array(one["scores"], float)) for one in row["again"][arm]]
            for name, scores in told:
                if name != DRAWN:
                    moves.setdefault(name, []).append(float(np.abs(scores - plain).mean()))
            drawn = [scores for name, scores in told if name == DRAWN]
            if len(drawn) > 1:
                moves.setdefault(DRAWN, []).append(float(np.std(drawn, axis=0, ddof=1).mean()))
        found[arm] = {name: _mean(each) for name, each in moves.items()}
    return found


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
