"""A critique as served, and what a person says of it -> the critique to be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mondrian.critique.parser import recover
from mondrian.critique.rejection import Rejected
from mondrian.critique.schema import Critique, canonical
from mondrian.serving.feedback.schema import Fault, Faults, Opinion, leaves


def told_of(
    opinion: Opinion, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    """What `feedback.keep` takes. A correction that changes nothing accepts.

    prompts  what the job asked, to know an echo of it

    Raises Faults.
    """
    said = opinion.model_fields_set
    told: dict[str, Any] = {n: getattr(opinion, n) for n in ("thumbs", "note", "who") if n in said}
    if "note" in told:
        told["note"] = (told["note"] or "").strip() or None
    if opinion.corrects:
        return told | _corrected(opinion, advisor, served, prompts)
    if "verdict" in said:
        return told | {"verdict": _accepted(opinion, served), "critique": None}
    return told


def merged(opinion: Opinion, served: Critique | None) -> Critique:
    """The critique as a person wants it: where scores are new, the overall one is their mean.

    Raises Faults where there is nothing to correct.
    """
    start = opinion.critique or served
    if start is None:
        raise Faults(Fault("critique", "is missing; what was said is none that could be corrected"))
    scores = opinion.scores or {}
    new = tuple(
        d.model_copy(update={"score": scores.get(d.name, d.score)}) for d in start.dimensions
    )
    overall = opinion.overall_score
    if overall is None:
        overall = mean([d.score for d in new]) if new != start.dimensions else start.overall_score
    return start.model_copy(update={"dimensions": new, "overall_score": overall})


def mean(scores: Sequence[float]) -> float:
    """The overall score that follows from the seven."""
    return round(sum(scores) / len(scores), 1)


def changes(before: Critique, after: Critique) -> tuple[int, int]:
    """How many scores, the overall one among them, and how many texts are others."""
    old, new = (dict(leaves(critique.model_dump())) for critique in (before, after))
    others = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    scores = sum(name.endswith("score") for name in others)
    return scores, len(others) - scores


def _corrected(
    opinion: Opinion, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    whole = merged(opinion, served)
    if opinion.verdict is None and "verdict" in opinion.model_fields_set:
        raise Faults(Fault("verdict", "is null beside a correction; leave one of them away"))
    found = recover(canonical(whole), advisor, prompts)
    if isinstance(found, Rejected):
        raise Faults(Fault("critique", f"cannot be trained on: {found.reason}, {found.detail}"))
    if served is not None and canonical(whole) == canonical(served):
        return {"verdict": "accepted", "critique": None}
    if opinion.verdict == "accepted":
        raise Faults(Fault("verdict", "is accepted beside a correction; say corrected"))
    return {"verdict": "corrected", "critique": canonical(whole)}


def _accepted(opinion: Opinion, served: Critique | None) -> str | None:
    if opinion.verdict == "corrected":
        raise Faults(Fault("verdict", "is corrected; give scores, overall_score or critique too"))
    if opinion.verdict and served is None:
        raise Faults(Fault("verdict", "is accepted, but what was said is no critique in form"))
    return opinion.verdict
