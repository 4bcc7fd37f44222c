"""Which critiques that the service gave are training data: those that a person has reviewed."""

from __future__ import annotations

from typing import Any

from mondrian.core.params import Served
from mondrian.critique.rejection import Reason, Rejected
from mondrian.data.jobs import Review

_TAKEN = {"reviewed": ("accepted", "corrected"), "corrected": ("corrected",), "leave_out": ()}


def reviewed(review: Review | None, served: Served) -> bool:
    """Whether a review makes a critique training data."""
    return review is not None and review.verdict in _TAKEN[served]


def unreviewed(review: Review | None, by: str, served: Served) -> Rejected:
    """Why a served critique is left out.

    by  who answered, as jobs.model_used has it
    """
    told = f"served by {by or 'the base'}; "
    if review is None or not review.verdict:
        told += "nobody has accepted or corrected it"
    else:
        told += f"{review.verdict}, but link.served is {served}"
    return Rejected(Reason.UNREVIEWED, told)


def outdated(by: str) -> Rejected:
    """Why a served critique is left out that has changed after its review."""
    told = f"served by {by or 'the base'}; another text was reviewed than is there now"
    return Rejected(Reason.UNREVIEWED, told)


def provenance(review: Review, by: str, version: str) -> dict[str, Any]:
    """What the manifest tells of it."""
    return {
        "verdict": review.verdict, "served_by": by, "adapter_version": version,
        "who": review.who, "at": review.at,
    }  # fmt: skip
