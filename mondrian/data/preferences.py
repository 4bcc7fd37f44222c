"""Preference pairs from people's feedback: a better and a worse critique of one photo.

A corrected critique is better than the served one; the critique that a blind vote prefers is better
than the other; thumbs up and accepted are better than thumbs down for the same photo. Pairs that
contradict each other are left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

PAIR_REASONS = ("corrected", "vote", "thumbs", "accepted")  # the first one that applies is reported
LEFT_OUT_REASONS = (
    "no_critique not_utf8 equal_votes equal_texts twice contradictory photo_missing held_out"
).split()


@dataclass(frozen=True)
class RatedCritique:
    """One advisor's critique in one job, and a person's feedback about it."""

    job: str
    photo: str  # sha256 of the sent photo, or its file
    filename: str  # as in the job
    critique: str  # canonical, as served
    corrected: str = ""  # canonical; empty if it was not corrected
    thumbs: int = 0
    verdict: str = ""
    model_used: str = ""  # as jobs.model_used
    version: str = ""
    who: str = ""
    captured: str = ""  # when the photo was taken, as the service noted it
    preferred_to: tuple[str, ...] = ()  # jobs that lost a blind vote against it


@dataclass(frozen=True)
class PreferencePair:
    """Two critiques of one photo; `reason` is one of PAIR_REASONS."""

    reason: str
    chosen: str
    rejected: str
    chosen_source: RatedCritique
    rejected_source: RatedCritique

    @property
    def filename(self) -> str:
        return self.chosen_source.filename

    @property
    def jobs(self) -> str:
        """The job of a correction, or the jobs of both critiques."""
        better, worse = self.chosen_source.job, self.rejected_source.job
        return better if better == worse else f"{better} over {worse}"

    def provenance(self) -> dict[str, str]:
        better, worse = self.chosen_source, self.rejected_source
        return {
            "why": self.reason,
            "who": better.who,
            "chosen_job": better.job,
            "chosen_by": better.model_used,
            "chosen_version": better.version,
            "rejected_job": worse.job,
            "rejected_by": worse.model_used,
            "rejected_version": worse.version,
        }


def find_pairs(critiques: Iterable[RatedCritique]) -> tuple[list[PreferencePair], dict[str, int]]:
    """Return every pair, and the number of left-out ones by reason."""
    by_photo: dict[str, list[RatedCritique]] = defaultdict(list)
    for critique in critiques:
        by_photo[critique.photo].append(critique)
    counts: Counter[str] = Counter()
    pairs = [pair for group in by_photo.values() for pair in _pair_up(group, counts)]
    return pairs, dict(counts)


def _pair_up(critiques: list[RatedCritique], counts: Counter[str]) -> Iterator[PreferencePair]:
    pair_by_texts: dict[tuple[str, str], PreferencePair] = {}
    for pair in _iter_candidate_pairs(critiques):
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


def _iter_candidate_pairs(critiques: list[RatedCritique]) -> Iterator[PreferencePair]:
    for critique in critiques:
        if critique.verdict == "corrected" and critique.corrected:
            texts = (critique.corrected, critique.critique)
            yield PreferencePair("corrected", *texts, critique, critique)
    for better, worse in product(critiques, critiques):
        if worse.job in better.preferred_to:
            yield PreferencePair("vote", better.critique, worse.critique, better, worse)
    bad = [c for c in critiques if c.thumbs < 0 and c.verdict != "accepted"]
    liked = [c for c in critiques if c.thumbs > 0]
    accepted = [c for c in critiques if c.verdict == "accepted" and c.thumbs >= 0]
    for reason, good in (("thumbs", liked), ("accepted", accepted)):
        for better, worse in product(good, bad):
            yield PreferencePair(reason, better.critique, worse.critique, better, worse)
