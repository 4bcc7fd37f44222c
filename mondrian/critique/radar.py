"""The seven scores as a radar: its corners in the units of an SVG, for each page that draws one."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from mondrian.critique.schema import DIMENSIONS

_RADIUS = 70  # of a score of 10, around (100, 100)


def polygon(scores: Sequence[float]) -> str:
    """Scores in the order of DIMENSIONS as `points`, the first at the top, then clockwise."""
    return " ".join(_point(i, score) for i, score in enumerate(scores))


def corners() -> list[str]:
    """Where a score of 10 lies, `x,y` for each dimension."""
    return [_point(i, 10) for i in range(len(DIMENSIONS))]


def dimension_labels() -> list[tuple[str, str, str]]:
    """The first word of each dimension with the x and y of its middle."""
    places = [_point(i, 12).split(",") for i in range(len(DIMENSIONS))]
    return [(name.split()[0], x, y) for name, (x, y) in zip(DIMENSIONS, places, strict=True)]


def _point(i: int, score: float) -> str:
    angle, far = 2 * pi * i / len(DIMENSIONS) - pi / 2, _RADIUS * score / 10
    return f"{100 + far * cos(angle):.1f},{100 + far * sin(angle):.1f}"
