"""What people said of critiques -> pairs of a better and a worse one, each pair once.

Better is a corrected critique than the one as served; and, of one photograph, thumbs up than thumbs
down, and accepted than thumbs down. Two that were found better than each other are no pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

CORRECTED, THUMBS, ACCEPTED = "corrected", "thumbs", "accepted"
WHY = (CORRECTED, THUMBS, ACCEPTED)  # the first that holds is told

LEFT_OUT = ("no_critique", "equal_texts", "twice", "contradictory", "photograph_gone", "held_out")


@dataclass(frozen=True)
class Voice:
    """One advisor's critique in one job, and what a person said of it.

    photo      names the photograph: sha256 of what was sent, or its file
    filename   as the job has it
    critique   canonical, as served
    corrected  canonical; empty where it was not
    arm        who answered, as jobs.model_used
    """

    job: str
    photo: str
    filename: str
    critique: str
    corrected: str = ""
    thumbs: int = 0
    verdict: str = ""
    arm: str = ""
    version: str = ""
    who: str = ""


@dataclass(frozen=True)
class Pair:
    """Two critiques of one photograph; `why` is one of WHY."""

    why: str
    chosen: str
    rejected: str
    better: Voice
    worse: Voice


def find_pairs(voices: Iterable[Voice]) -> tuple[list[Pair], dict[str, int]]:
    """Every pair, and how many there are of each kind and how many were left out, by name."""
    by_photo: dict[str, list[Voice]] = {}
    for voice in voices:
        by_photo.setdefault(voice.photo, []).append(voice)
    counts: Counter[str] = Counter()
    kept = [pair for some in by_photo.values() for pair in _of_one(some, counts)]
    counts.update(pair.why for pair in kept)
    return kept, dict(counts)


def summary(advisor: str, kept: Sequence[Pair], counts: Mapping[str, int], held_out: bool) -> str:
    """What a person wants to know, in a few lines.

    held_out  whether photographs of held-out rows were kept out
    """
    why = Counter(pair.why for pair in kept)
    told = " · ".join(f"{name} {why[name]}" for name in WHY if why[name])
    out = " · ".join(f"{name} {counts[name]}" for name in LEFT_OUT if counts.get(name))
    lines = [
        f"preferences {advisor}: {counts.get('judged', 0)} judged critiques → {len(kept)} pairs"
        f" of {len({pair.better.photo for pair in kept})} photos{f': {told}' if told else ''}"
    ]
    lines += [f"  left out: {out}"] if out else []
    if not held_out:
        lines.append("  no photograph was held out; see --exclude_photos_of")
    return "\n".join(lines)


def _of_one(voices: list[Voice], counts: Counter[str]) -> Iterator[Pair]:
    """The pairs of one photograph."""
    found: dict[tuple[str, str], Pair] = {}
    for pair in _candidates(voices):
        texts = (pair.chosen, pair.rejected)
        if pair.chosen == pair.rejected:
            counts["equal_texts"] += 1
        elif texts in found:
            counts["twice"] += 1
        else:
            found[texts] = pair
    for (chosen, rejected), pair in found.items():
        if (rejected, chosen) in found:
            counts["contradictory"] += 1
        else:
            yield pair


def _candidates(voices: list[Voice]) -> Iterator[Pair]:
    for one in voices:
        if one.verdict == "corrected" and one.corrected:
            yield Pair(CORRECTED, one.corrected, one.critique, one, one)
    bad = [one for one in voices if one.thumbs < 0 and one.verdict != "accepted"]
    liked = [one for one in voices if one.thumbs > 0]
    taken = [one for one in voices if one.verdict == "accepted" and one.thumbs >= 0]
    for why, good in ((THUMBS, liked), (ACCEPTED, taken)):
        for better, worse in product(good, bad):
            yield Pair(why, better.critique, worse.critique, better, worse)
