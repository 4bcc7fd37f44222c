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
PAIR_REASONS = (CORRECTED, THUMBS, ACCEPTED)  # the first that holds is told

LEFT_OUT_REASONS = (
    "no_critique",
    "equal_texts",
    "twice",
    "contradictory",
    "photograph_gone",
    "held_out",
)


@dataclass(frozen=True)
class RatedCritique:
    """One advisor's critique in one job, and what a person said of it.

    photo      names the photograph: sha256 of what was sent, or its file
    filename   as the job has it
    critique   canonical, as served
    corrected  canonical; empty where it was not
    model_used        who answered, as jobs.model_used
    """

    job: str
    photo: str
    filename: str
    critique: str
    corrected: str = ""
    thumbs: int = 0
    verdict: str = ""
    model_used: str = ""
    version: str = ""
    who: str = ""


@dataclass(frozen=True)
class PreferencePair:
    """Two critiques of one photograph; `reason` is one of WHY."""

    reason: str
    chosen: str
    rejected: str
    chosen_source: RatedCritique
    rejected_source: RatedCritique


def find_pairs(voices: Iterable[RatedCritique]) -> tuple[list[PreferencePair], dict[str, int]]:
    """Every pair, and how many there are of each kind and how many were left out, by name."""
    by_photo: dict[str, list[RatedCritique]] = {}
    for voice in voices:
        by_photo.setdefault(voice.photo, []).append(voice)
    counts: Counter[str] = Counter()
    pairs = [
        pair
        for photo_voices in by_photo.values()
        for pair in _find_photo_pairs(photo_voices, counts)
    ]
    counts.update(pair.reason for pair in pairs)
    return pairs, dict(counts)


def format_preference_summary(
    advisor: str, pairs: Sequence[PreferencePair], counts: Mapping[str, int], held_out: bool
) -> str:
    """What a person wants to know, in a few lines.

    held_out  whether photographs of held-out rows were kept out
    """
    why = Counter(pair.reason for pair in pairs)
    reason_text = " · ".join(f"{name} {why[name]}" for name in PAIR_REASONS if why[name])
    out = " · ".join(f"{name} {counts[name]}" for name in LEFT_OUT_REASONS if counts.get(name))
    lines = [
        f"preferences {advisor}: {counts.get('judged', 0)} judged critiques → {len(pairs)} pairs"
        f" of {len({pair.chosen_source.photo for pair in pairs})} "
        f"photos{f': {reason_text}' if reason_text else ''}"
    ]
    lines += [f"  left out: {out}"] if out else []
    if not held_out:
        lines.append("  no photograph was held out; see --exclude_photos_of")
    return "\n".join(lines)


def _find_photo_pairs(
    voices: list[RatedCritique], counts: Counter[str]
) -> Iterator[PreferencePair]:
    """The pairs of one photograph."""
    pair_by_texts: dict[tuple[str, str], PreferencePair] = {}
    for pair in _iter_candidate_pairs(voices):
        texts = (pair.chosen, pair.rejected)
        if pair.chosen == pair.rejected:
            counts["equal_texts"] += 1
        elif texts in pair_by_texts:
            counts["twice"] += 1
        else:
            pair_by_texts[texts] = pair
    for (chosen, rejected), pair in pair_by_texts.items():
        if (rejected, chosen) in pair_by_texts:
            counts["contradictory"] += 1
        else:
            yield pair


def _iter_candidate_pairs(voices: list[RatedCritique]) -> Iterator[PreferencePair]:
    for voice in voices:
        if voice.verdict == "corrected" and voice.corrected:
            yield PreferencePair(CORRECTED, voice.corrected, voice.critique, voice, voice)
    bad = [voice for voice in voices if voice.thumbs < 0 and voice.verdict != "accepted"]
    liked = [voice for voice in voices if voice.thumbs > 0]
    taken = [voice for voice in voices if voice.verdict == "accepted" and voice.thumbs >= 0]
    for why, good in ((THUMBS, liked), (ACCEPTED, taken)):
        for better, worse in product(good, bad):
            yield PreferencePair(why, better.critique, worse.critique, better, worse)
