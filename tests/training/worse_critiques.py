"""Critiques that are worse than an advisor's."""

from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import Critique, serialize_critique


def worsen(row: ChatRow, shift: int = 4) -> str:
    """Return the row's critique with other scores and without its last sentence."""
    critique = row.reference_critique()
    dimensions = tuple(
        d.model_copy(update={"score": (d.score + shift) % 10, "comment": "It is nice."})
        for d in critique.dimensions
    )
    worse: Critique = critique.model_copy(update={"dimensions": dimensions})
    return serialize_critique(worse)
