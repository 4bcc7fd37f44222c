"""Critiques by base and adapter of the same held-out photos, for a blind comparison."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.evaluation.arms import JUDGED_ARMS
from mondrian.evaluation.preference import Side

_SIDES: tuple[Side, Side] = ("left", "right")
_BLOCK = 4  # pairs, in each of which both sides have the adapter equally often


@dataclass(frozen=True)
class CritiquePair:
    """What base and adapter wrote about a photo."""

    photo_group: str
    image: Path
    base: Critique
    fine_tuned: Critique

    @property
    def digest(self) -> str:
        """Return a hash of what a person compares: a vote on another one does not count."""
        parts = [self.image.name, *map(serialize_critique, (self.base, self.fine_tuned))]
        return sha256("\n".join(parts).encode()).hexdigest()[:16]


def build_pairs(photos: Sequence[Mapping[str, Any]]) -> tuple[list[CritiquePair], Counter[str]]:
    """Return a pair for each photo of a report, and why others have none.

    Of near-duplicates and of a walk one is taken, so that photos are independent observations.
    """
    pairs: dict[str, CritiquePair] = {}
    left_out: Counter[str] = Counter()
    for photo in photos:
        base, fine_tuned = (_parse(photo[JUDGED_ARMS[arm]]) for arm in ("base", "fine_tuned"))
        if not isinstance(group := photo["photo_group"], str):
            raise TypeError("photo_group is not a text")
        if base is None or fine_tuned is None:
            left_out["no critique"] += 1
        elif base == fine_tuned:
            left_out["equal critiques"] += 1
        elif group in pairs:
            left_out["of the same photo or walk"] += 1
        else:
            pairs[group] = CritiquePair(group, Path(photo["image"]), base, fine_tuned)
    return list(pairs.values()), left_out


def assign_sides(count: int, earlier: Sequence[Side], random: Random) -> list[Side]:
    """Return random sides of the adapter, balanced in each block of four.

    earlier  sides of the votes of other sessions, whose last block is completed first
    """
    excess = earlier.count("left") - earlier.count("right")
    other: Side = "right" if excess > 0 else "left"
    sides = [other] * abs(excess)
    while len(sides) < count:
        size = min(_BLOCK, count - len(sides))
        block = [*_SIDES] * (size // 2) + [random.choice(_SIDES)] * (size % 2)
        sides += random.sample(block, size)
    return sides[:count]


def _parse(answer: Mapping[str, Any]) -> Critique | None:
    parsed = parse_critique(answer["text"])
    return parsed.critique if isinstance(parsed, ParsedCritique) else None
