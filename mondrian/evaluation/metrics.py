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
from mondrian.evaluation.arms import ARMS, CONSTRAINED_ARMS
from mondrian.evaluation.perturbations import SAMPLED_VARIANT
from mondrian.evaluation.quality_index import compute_index_parts, compute_quality_index
from mondrian.evaluation.score_metrics import score_metrics
from mondrian.evaluation.statistics import estimate_proportion
from mondrian.evaluation.text_metrics import (
    cross_text_repetition,
    dominant_script,
    repetition,
    specificity,
    words,
)


def compute_arm_metrics(report: dict[str, Any], params: Evaluate) -> dict[str, Any]:
    """Each arm's measures, those of a constant, and those of the advisor's own critiques."""
    rows = report["photographs"]
    reference = np.array([row["reference_scores"] for row in rows], float)
    arms = [arm for arm in (*ARMS, *CONSTRAINED_ARMS) if arm in rows[0]]
    out: dict[str, Any] = {arm: _arm(report, arm, reference, params) for arm in arms}
    for constrained_arm, arm in CONSTRAINED_ARMS.items():
        if constrained_arm in out:
            out[arm]["compliance"] = {
                "raw": out[arm]["format_compliance"],
                "repaired": round(out[arm]["scored"] / len(rows), 4),
                "constrained": out[constrained_arm]["format_compliance"],
            }
    for arm, moves in _consistency(rows).items():
        out[arm]["consistency"] = moves
    for arm, cost in report["cost"].items():
        out[arm]["cost"] = cost
    out["constant"] = {"format_compliance": 1.0, "scored": len(rows)}
    out["constant"] |= score_metrics(predict_constant(report), reference)
    texts = [row["reference_text"] for row in rows]
    out["reference"] = _texts(texts, texts, [row["reference_copied"] for row in rows])
    return out


def predict_constant(report: dict[str, Any]) -> Any:
    """What the constant predictor says of each photograph: the mean scores of train, (n, 7)."""
    mean_scores = [
        row.get("train_score_means", report["train_score_means"]) for row in report["photographs"]
    ]
    return np.array([[scores[name] for name in DIMENSIONS] for scores in mean_scores], float)


def _arm(report: dict[str, Any], arm: str, reference: Any, params: Evaluate) -> dict[str, Any]:
    rows = report["photographs"]
    answers = [row[arm] for row in rows]
    scored = [i for i, answer in enumerate(answers) if answer["scores"] is not None]
    scores = np.array([answers[i]["scores"] for i in scored], float).reshape(-1, len(DIMENSIONS))
    seconds, tokens = (sum(answer[key] for answer in answers) for key in ("seconds", "tokens"))
    parts = compute_index_parts(answers, rows)
    compliance, low, high = estimate_proportion(
        sum(answer["compliant"] for answer in answers), len(answers)
    )
    faults = Counter(answer["fault"].split(":")[0] for answer in answers if answer["fault"])
    return {
        "format_compliance": round(compliance, 4),
        "format_compliance_interval": [round(low, 4), round(high, 4)],
        "faults": dict(faults.most_common()),
        "ended": _mean([answer["ended"] for answer in answers]),
        "scored": len(scored),
        **score_metrics(scores, reference[scored]),
        "quality_index": round(float(np.mean(compute_quality_index(parts, params.index))), 2),
        "index_parts": {name: _mean([part[name] for part in parts]) for name in parts[0]},
        **_texts(
            [answer["text"] for answer in answers],
            [row["reference_text"] for row in rows],
            [answer["copied"] for answer in answers],
        ),
        "seconds_per_critique": round(seconds / len(answers), 3),
        "tokens_per_critique": round(tokens / len(answers), 1),
        "passes_per_critique": round(sum(answer["passes"] for answer in answers) / len(answers), 1),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
    }


def _texts(
    texts: Sequence[str], references: Sequence[str], copied: Sequence[bool]
) -> dict[str, Any]:
    pairs = list(zip(texts, references, strict=True))
    return {
        "specificity": _mean(specificity(texts)),
        "repetition": _mean([repetition(text) for text in texts]),
        "repeated_across": _mean(cross_text_repetition(texts)),
        "copied": _mean(copied),
        "right_language": _mean([dominant_script(a) == dominant_script(b) for a, b in pairs]),
        "length": _mean([len(words(a)) / max(1, len(words(b))) for a, b in pairs]),
    }


def _consistency(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By how much a score moves, in points of 10, by arm and by what was altered.

    Against the answer to the photograph as it is, held to the schema too; `sampled_scores` is the
    standard
    deviation over the draws of one photograph.
    """
    consistency: dict[str, dict[str, float]] = {}
    again = [row for row in rows if "again" in row]
    for arm in again[0]["again"] if again else ():
        moves: dict[str, list[float]] = {}
        for row in again:
            plain = np.array(row[f"{arm}_constrained"]["scores"], float)
            variant_scores = [
                (answer["variant"], np.array(answer["scores"], float))
                for answer in row["again"][arm]
            ]
            for name, scores in variant_scores:
                if name != SAMPLED_VARIANT:
                    moves.setdefault(name, []).append(float(np.abs(scores - plain).mean()))
            sampled_scores = [scores for name, scores in variant_scores if name == SAMPLED_VARIANT]
            if len(sampled_scores) > 1:
                moves.setdefault(SAMPLED_VARIANT, []).append(
                    float(np.std(sampled_scores, axis=0, ddof=1).mean())
                )
        consistency[arm] = {name: _mean(values) for name, values in moves.items()}
    return consistency


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
