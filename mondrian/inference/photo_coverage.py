"""Choose photos that cover what an advisor has not critiqued: far from that, and from each other.

The choice is greedy k-center, "farthest first" (Gonzalez 1985; core sets, arXiv:1708.00489).
"""

from dataclasses import dataclass

import numpy as np

from mondrian.core.fields import FloatArray

NO_POINT = -1


@dataclass(frozen=True)
class Choice:
    index: int  # of the candidate
    distance: float  # to the nearest photo that is critiqued or was chosen before; inf without any
    nearest: int  # that photo: an index into the critiqued ones followed by the candidates, or -1


def standardize(summaries: FloatArray) -> FloatArray:
    """Scale each column to equal variance, so that two photos are 1 apart as a root mean square."""
    deviation = summaries.std(axis=0)
    varies = deviation > 1e-6
    scaled: FloatArray = (summaries - summaries.mean(axis=0))[:, varies] / deviation[varies]
    return scaled / np.sqrt(2 * max(1, varies.sum()))


def choose_photos(candidates: FloatArray, critiqued: FloatArray, count: int) -> list[Choice]:
    """Return at most `count` candidates, each the farthest from all critiqued and chosen ones.

    candidates  (photos, columns)
    critiqued   (photos, columns); without any, the candidate nearest to the mean is the first
    """
    distances = np.full(len(candidates), np.inf)
    nearest = np.full(len(candidates), NO_POINT)
    is_free = np.ones(len(candidates), bool)

    def add_point(point: FloatArray, number: int) -> None:
        to_point = np.linalg.norm(candidates - point, axis=1)
        nearest[to_point < distances] = number
        np.minimum(distances, to_point, out=distances)

    for number, point in enumerate(critiqued):
        add_point(point, number)
    choices: list[Choice] = []
    while len(choices) < min(count, len(candidates)):
        priorities = distances if len(critiqued) or choices else _closeness_to_mean(candidates)
        index = int(np.where(is_free, priorities, -np.inf).argmax())
        choices.append(Choice(index, float(distances[index]), int(nearest[index])))
        is_free[index] = False
        add_point(candidates[index], len(critiqued) + index)
    return choices


def _closeness_to_mean(points: FloatArray) -> FloatArray:
    distances: FloatArray = np.linalg.norm(points - points.mean(axis=0), axis=1)
    return -distances
