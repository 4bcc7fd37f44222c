"""A critique as served, and what a person says of it -> the critique to be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mondrian.critique.parser import parse_critique
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.serving.feedback.schema import (
    FeedbackRequest,
    FieldError,
    InvalidFeedback,
    iter_leaves,
)


def build_feedback_values(
    opinion: FeedbackRequest, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    """What `feedback.keep` takes. A correction that changes nothing accepts.

    prompts  what the job asked, to know an echo of it

    Raises Faults.
    """
    fields_set = opinion.model_fields_set
    values: dict[str, Any] = {
        n: getattr(opinion, n) for n in ("thumbs", "note", "who") if n in fields_set
    }
    if "note" in values:
        values["note"] = (values["note"] or "").strip() or None
    if opinion.has_correction:
        return values | _validate_correction(opinion, advisor, served, prompts)
    if "verdict" in fields_set:
        return values | {"verdict": _validate_verdict(opinion, served), "critique": None}
    return values


def apply_correction(opinion: FeedbackRequest, served: Critique | None) -> Critique:
    """The critique as a person wants it: where scores are new, the overall one is their mean.

    Raises Faults where there is nothing to correct.
    """
    start = opinion.critique or served
    if start is None:
        raise InvalidFeedback(
            FieldError("critique", "is missing; what was said is none that could be corrected")
        )
    scores = opinion.scores or {}
    new = tuple(
        d.model_copy(update={"score": scores.get(d.name, d.score)}) for d in start.dimensions
    )
    overall = opinion.overall_score
    if overall is None:
        overall = (
            mean_score([d.score for d in new]) if new != start.dimensions else start.overall_score
        )
    return start.model_copy(update={"dimensions": new, "overall_score": overall})


def mean_score(scores: Sequence[float]) -> float:
    """The overall score that follows from the seven."""
    return round(sum(scores) / len(scores), 1)


def count_changes(before: Critique, after: Critique) -> tuple[int, int]:
    """How many scores, the overall one among them, and how many texts are others."""
    old, new = (dict(iter_leaves(critique.model_dump())) for critique in (before, after))
    others = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    scores = sum(name.endswith("score") for name in others)
    return scores, len(others) - scores


def _validate_correction(
    opinion: FeedbackRequest, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    whole = apply_correction(opinion, served)
    if opinion.verdict is None and "verdict" in opinion.model_fields_set:
        raise InvalidFeedback(
            FieldError("verdict", "is null beside a correction; leave one of them away")
        )
    parsed = parse_critique(serialize_critique(whole), advisor, prompts)
    if isinstance(parsed, Rejection):
        raise InvalidFeedback(
            FieldError("critique", f"cannot be trained on: {parsed.reason}, {parsed.detail}")
        )
    if served is not None and serialize_critique(whole) == serialize_critique(served):
        return {"verdict": "accepted", "critique": None}
    if opinion.verdict == "accepted":
        raise InvalidFeedback(
            FieldError("verdict", "is accepted beside a correction; say corrected")
        )
    return {"verdict": "corrected", "critique": serialize_critique(whole)}


def _validate_verdict(opinion: FeedbackRequest, served: Critique | None) -> str | None:
    if opinion.verdict == "corrected":
        raise InvalidFeedback(
            FieldError("verdict", "is corrected; give scores, overall_score or critique too")
        )
    if opinion.verdict and served is None:
        raise InvalidFeedback(
            FieldError("verdict", "is accepted, but what was said is no critique in form")
        )
    return opinion.verdict
