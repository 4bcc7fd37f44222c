"""SVG coordinates of the radar chart of the seven scores, around (100, 100)."""

from collections.abc import Sequence
from math import cos, pi, sin

from mondrian.critique.schema import DIMENSIONS

_RADIUS = 70  # of a score of 10


def polygon_points(scores: Sequence[float]) -> str:
    """Return `points` for scores in the order of DIMENSIONS: the first at the top, clockwise."""
    return " ".join(_point(i, score) for i, score in enumerate(scores))


def corner_points() -> list[str]:
    """Return the point `x,y` of a score of 10 for each dimension."""
    return [_point(i, 10) for i in range(len(DIMENSIONS))]


def dimension_labels() -> list[tuple[str, str, str]]:
    """Return the first word of each dimension with the x and y of its center."""
    points = [_point(i, 12).split(",") for i in range(len(DIMENSIONS))]
    return [(name.split()[0], x, y) for name, (x, y) in zip(DIMENSIONS, points, strict=True)]


def _point(i: int, score: float) -> str:
    angle, distance = 2 * pi * i / len(DIMENSIONS) - pi / 2, _RADIUS * score / 10
    return f"{100 + distance * cos(angle):.1f},{100 + distance * sin(angle):.1f}"
