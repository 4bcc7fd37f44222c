"""Which critiques that the service gave are training data: those that a person has reviewed."""

from __future__ import annotations

from typing import Any

from mondrian.core.params import Served
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.data.jobs import Review

_TRAINABLE_VERDICTS = {
    "reviewed": ("accepted", "corrected"),
    "corrected": ("corrected",),
    "leave_out": (),
}


def is_review_trainable(review: Review | None, served: Served) -> bool:
    """Whether a review makes a critique training data."""
    return review is not None and review.verdict in _TRAINABLE_VERDICTS[served]


def reject_unreviewed(review: Review | None, by: str, served: Served) -> Rejection:
    """Why a served critique is left out.

    by  who answered, as jobs.model_used has it
    """
    message = f"served by {by or 'the base'}; "
    if review is None or not review.verdict:
        message += "nobody has accepted or corrected it"
    else:
        message += f"{review.verdict}, but link.include_served is {served}"
    return Rejection(RejectionReason.UNREVIEWED, message)


def reject_outdated_review(by: str) -> Rejection:
    """Why a served critique is left out that has changed after its review."""
    message = f"served by {by or 'the base'}; another text was reviewed than is there now"
    return Rejection(RejectionReason.UNREVIEWED, message)


def build_review_provenance(review: Review, by: str, version: str) -> dict[str, Any]:
    """What the manifest tells of it."""
    return {
        "verdict": review.verdict,
        "served_by": by,
        "adapter_version": version,
        "who": review.who,
        "at": review.at,
    }
