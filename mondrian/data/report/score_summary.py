"""The scores of an advisor for the data report: equal scores, and the overall score by mean."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mondrian.data.manifest import ManifestRecord
from mondrian.data.quality.quality_flags import nearest_mean

_MAX_VECTORS = 10
_DIFFERENCES = (0.05, 0.15, 0.5, 1.0)  # points; rounding to tenths explains the first
_CELL = 0.2  # points; dots of the chart that are closer are one dot
Vector = tuple[float, ...]  # seven scores and the overall score


@dataclass(frozen=True)
class ScoreVector:
    """Scores that several critiques have in common."""

    scores: Vector
    critiques: int
    used: int
    flags: Sequence[str]  # of any of the critiques, the most frequent first

    @property
    def mean(self) -> float:
        return _mean(self.scores[:-1])


@dataclass(frozen=True)
class Dot:
    """Critiques of about the same mean and overall score; positions are in points."""

    mean: float
    overall: float
    critiques: int
    is_used: bool


@dataclass
class ScoreSummary:
    """Collects the scores of records, used or left out."""

    critiques: int = 0
    used: int = 0
    text_only: int = 0  # used records whose scores are not learned
    nearer_to_all: int = 0  # critiques whose overall score follows from more than the seven
    _vectors: Counter[Vector] = field(default_factory=Counter)
    _used_vectors: Counter[Vector] = field(default_factory=Counter)
    _flags: dict[Vector, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _cells: Counter[tuple[int, int, bool]] = field(default_factory=Counter)
    _differences: Counter[tuple[float, bool]] = field(default_factory=Counter)

    def add(self, record: ManifestRecord) -> None:
        is_used = record.reason is None
        self.text_only += is_used and not record.scored
        if "unscored" in record.suspicions:  # it has no scores of the advisor
            return
        scores, overall = record.critique.scores(), record.critique.overall_score
        mean = nearest_mean(record.critique, record.extra_scores)
        self.nearer_to_all += mean != _mean(scores)
        self.critiques += 1
        self.used += is_used
        vector = (*scores, overall)
        self._vectors[vector] += 1
        self._used_vectors[vector] += is_used
        if record.suspicions:
            self._flags[vector].update(record.suspicions)
        self._cells[round(mean / _CELL), round(overall / _CELL), is_used] += 1
        self._differences[round(abs(overall - mean), 9), is_used] += 1

    @property
    def different_vectors(self) -> int:
        return len(self._vectors)

    def frequent_vectors(self) -> list[ScoreVector]:
        """Return the scores that at least two critiques have, the most frequent first."""
        order = sorted(self._vectors.items(), key=lambda item: (-item[1], item[0]))
        return [
            ScoreVector(
                vector,
                count,
                self._used_vectors[vector],
                [flag for flag, _ in self._flags.get(vector, Counter()).most_common()],
            )
            for vector, count in order[:_MAX_VECTORS]
            if count > 1
        ]

    def dots(self) -> list[Dot]:
        """Return the dots of overall against mean, those of left-out records first.

        The mean is that of the seven, or of all stored dimensions if the overall is closer to it.
        """
        return [
            Dot(round(x * _CELL, 1), round(y * _CELL, 1), count, is_used)
            for (x, y, is_used), count in sorted(self._cells.items(), key=lambda c: (c[0][2], c[0]))
        ]

    def count_differences(self, tolerance: float) -> list[tuple[float, int, int]]:
        """Return (points, critiques, used ones): how many differ from the mean by at most that."""
        limits = sorted({*_DIFFERENCES, tolerance})
        return [(limit, *self._count_up_to(limit)) for limit in limits]

    def _count_up_to(self, limit: float) -> tuple[int, int]:
        within = [(used, n) for (d, used), n in self._differences.items() if d <= limit + 1e-9]
        return sum(n for _, n in within), sum(n for used, n in within if used)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
