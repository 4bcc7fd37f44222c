"""An answer with what can be said of it alone: in form or not, its scores, a sentence copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import is_schema_valid, validate_critique
from mondrian.evaluation.text_metrics import hash_sentences
from mondrian.model.vlm import Generation


def build_answer_record(answer: Generation, trained: set[str]) -> dict[str, Any]:
    """An answer with its scores, where it has them: raw compliance is judged without repair.

    trained  hashes of the sentences of train, for whether one was copied
    """
    compliant, fault = is_schema_valid(answer.text), None
    scores: tuple[float, ...] | None
    if compliant:
        scores = validate_critique(answer.text).scores()
    else:
        parsed = parse_critique(answer.text)
        scores = parsed.critique.scores() if isinstance(parsed, ParsedCritique) else None
        fault = None if isinstance(parsed, ParsedCritique) else f"{parsed.reason}: {parsed.detail}"
    return {
        "text": answer.text,
        "compliant": compliant,
        "scores": scores,
        "fault": fault,
        "copied": bool(hash_answer_sentences([answer.text]) & trained),
        "tokens": answer.num_tokens,
        "passes": answer.passes,
        "seconds": round(answer.seconds, 4),
        "ended": answer.ended,
    }


def hash_answer_sentences(answers: Iterable[str]) -> set[str]:
    """Hashes of the sentences that answers say in words of their own."""
    return hash_sentences("\n".join(_comments(text)) for text in answers)


def _comments(text: str) -> list[str]:
    """The values of a critique; of anything else, all of it."""
    parsed = parse_critique(text)
    if not isinstance(parsed, ParsedCritique):
        return [text]
    critique = parsed.critique
    dimension_texts = [part for d in critique.dimensions for part in (d.comment, d.recommendation)]
    return [critique.image_description, *dimension_texts, critique.technical_notes]
