"""The quality index: one number a photograph, of format, scores, text and grounding.

Each part lies in 0 to 1 and is defined for every answer, also one that is no critique, so that arms
can be compared photograph by photograph. The weights are evaluate.index in params.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mondrian.core.params import Index
from mondrian.evaluation.score_metrics import CHANCE
from mondrian.evaluation.text_metrics import chrf

_REPAIRED = 0.5  # of the format's part, for an answer that is a critique after repair


def compute_index_parts(
    answers: Sequence[dict[str, Any]], photographs: Sequence[dict[str, Any]]
) -> list[dict[str, float]]:
    """Format, scores, text and grounding of each answer; photographs hold the references."""
    references = np.array([p["reference_scores"] for p in photographs], float)
    return [
        {
            "format": 1.0 if answer["compliant"] else _REPAIRED * (answer["scores"] is not None),
            "scores": _score_accuracy(answer, references[i]),
            "text": chrf(answer["text"], photographs[i]["reference_text"]),
            "grounding": _grounding(answer, references, i),
        }
        for i, answer in enumerate(answers)
    ]


def compute_quality_index(parts: Sequence[dict[str, float]], weights: Index) -> list[float]:
    """0 to 100 of each answer: the weighted mean of its parts."""
    shares = weights.model_dump()
    total = sum(shares.values())
    return [100 * sum(shares[name] * part[name] for name in shares) / total for part in parts]


def _score_accuracy(answer: dict[str, Any], reference: Any) -> float:
    """1 for the advisor's own scores, 0 where they are as far as scores drawn evenly would be."""
    if answer["scores"] is None:
        return 0.0
    return max(0.0, 1 - float(np.abs(np.array(answer["scores"]) - reference).mean()) / CHANCE)


def _grounding(answer: dict[str, Any], references: Any, i: int) -> float:
    """Share of the other references that its scores are further from than from its own; ties half.

    0.5 is what an answer gets that does not look at the photograph.
    """
    others = np.delete(references, i, axis=0)
    others = others[np.abs(others - references[i]).sum(axis=1) > 0]
    if answer["scores"] is None or not len(others):
        return 0.0 if answer["scores"] is None else 0.5
    predicted = np.array(answer["scores"])
    own = np.abs(predicted - references[i]).mean()
    far = np.abs(predicted - others).mean(axis=1)
    return float((far > own).mean() + 0.5 * (far == own).mean())
