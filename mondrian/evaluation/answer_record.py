"""An answer with what can be said of it alone: in form or not, its scores, a sentence copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mondrian.critique.parser import Recovered, recover
from mondrian.critique.schema import complies, parse
from mondrian.evaluation.text_metrics import sentences
from mondrian.model.vlm import Answer


def judged(answer: Answer, trained: set[str]) -> dict[str, Any]:
    """An answer with its scores, where it has them: raw compliance is judged without repair.

    trained  hashes of the sentences of train, for whether one was copied
    """
    compliant, fault = complies(answer.text), None
    scores: tuple[float, ...] | None
    if compliant:
        scores = parse(answer.text).scores()
    else:
        found = recover(answer.text)
        scores = found.critique.scores() if isinstance(found, Recovered) else None
        fault = None if isinstance(found, Recovered) else f"{found.reason}: {found.detail}"
    return {
        "text": answer.text,
        "compliant": compliant,
        "scores": scores,
        "fault": fault,
        "copied": bool(sentences_of([answer.text]) & trained),
        "tokens": answer.tokens,
        "passes": answer.passes,
        "seconds": round(answer.seconds, 4),
        "ended": answer.ended,
    }


def sentences_of(answers: Iterable[str]) -> set[str]:
    """Hashes of the sentences that answers say in words of their own."""
    return sentences("\n".join(_comments(text)) for text in answers)


def _comments(text: str) -> list[str]:
    """The values of a critique; of anything else, all of it."""
    found = recover(text)
    if not isinstance(found, Recovered):
        return [text]
    critique = found.critique
    each = [part for d in critique.dimensions for part in (d.comment, d.recommendation)]
    return [critique.image_description, *each, critique.technical_notes]
