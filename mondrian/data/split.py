"""Split records into train, val and test by whole groups, with similar scores in all three.

A group must not be divided: near-duplicate photos, photos that have a text in common, and photos of
one walk. The first two count as one photo.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isnan, nan
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.fields import FloatArray
from mondrian.core.params import PrepareParams
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import ManifestRecord
from mondrian.data.walks import link_walks

SPLIT_PARTS = ("train", "val", "test")
NUM_CANDIDATE_SPLITS = 200  # of which the most balanced one is used


@dataclass(frozen=True)
class DatasetSplit:
    """Scores, photo, group, split and fold of each record, in the order of the manifest."""

    all_scores: FloatArray  # (records, dimensions and overall); NaN if only its text is used
    photos: Sequence[str]  # equal for copies, and for photos that have a text in common
    groups: Sequence[str]  # equal for photos of one walk too
    times: Sequence[str]  # when the photo was taken; empty if unknown
    parts: Sequence[str]
    folds: Sequence[int | None]

    def counts(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/prepare.json."""
        sizes = Counter(self.groups)
        largest = max(sizes.values(), default=0)
        walks = self.walks()
        counts: dict[str, Any] = {
            "photos": len(set(self.photos)),
            "timed_photos": len({p for p, t in zip(self.photos, self.times, strict=True) if t}),
            "photo_groups": len(sizes),
            "largest_group": largest,
            "walks": len(walks),
            "walk_photos": sum(walks.values()),
            "largest_walk": max(walks.values(), default=0),
        }
        for part in SPLIT_PARTS:
            overall = self.scores(part)[:, -1]
            critiques = self.parts.count(part)
            counts[part] = {
                "critiques": critiques,
                "photo_groups": len(self.part_groups(part)),
                "text_only": critiques - len(overall),
                "overall_mean": round(float(overall.mean()), 3) if len(overall) else None,
                "overall_std": round(float(overall.std()), 3) if len(overall) else None,
            }
        fold_sizes = Counter(fold for fold in self.folds if fold is not None)
        if fold_sizes:
            counts["folds"] = [fold_sizes[fold] for fold in sorted(fold_sizes)]
        return counts

    def walks(self) -> dict[str, int]:
        """Return the number of photos of each walk: of each group with several photos."""
        sizes = Counter(group for _, group in set(zip(self.photos, self.groups, strict=True)))
        return {group: size for group, size in sizes.items() if size > 1}

    def part_groups(self, part: str) -> set[str]:
        return {group for group, p in zip(self.groups, self.parts, strict=True) if p == part}

    def scored_groups(self, part: str) -> set[str]:
        """Return the groups that have a critique with scores."""
        members = zip(self.groups, self.parts, self._is_scored(), strict=True)
        return {group for group, p, scored in members if p == part and scored}

    def scores(self, part: str) -> FloatArray:
        """Return the scores of a split, without records of which only the text is used."""
        in_part = np.array([p == part for p in self.parts], bool)
        return self.all_scores[in_part & self._is_scored()]

    def _is_scored(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.all_scores[:, -1])


class _Group(NamedTuple):
    name: str
    mean_scores: FloatArray  # (dimensions and overall,); NaN if no critique has scores
    photos: int
    max_critiques: int  # of one photo


def split_records(records: Iterable[ManifestRecord], params: PrepareParams) -> DatasetSplit:
    """Assign whole groups to train, val and test, and to folds if params ask for them."""
    pairs, times, scores = [], [], []
    for record in records:
        pairs.append((record.photo.group, record.words))
        times.append(record.photo.captured)
        row = (*record.critique.scores(), record.critique.overall_score)
        scores.append(row if record.scored else (nan,) * len(row))
    all_scores = np.array(scores, float).reshape(-1, len(DIMENSIONS) + 1)
    photos = unite_names([photo for photo, _ in pairs], _link_shared_texts(pairs))
    walks = link_walks(zip(photos, times, strict=True), params.session_minutes)
    groups = unite_names(photos, walks)
    order = _list_groups(photos, groups, all_scores)
    held_out = _assign_held_out(order, params)
    folds = _assign_folds([group for group in order if held_out.get(group.name) != "test"], params)
    parts = [held_out.get(group, "train") for group in groups]
    fold_numbers = [folds.get(group) for group in groups]
    return DatasetSplit(all_scores, photos, groups, times, parts, fold_numbers)


def _link_shared_texts(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of photos that have a text in common, from (photo, words) pairs."""
    first_photo: dict[str, str] = {}
    for photo, words in pairs:
        yield photo, first_photo.setdefault(words, photo)


def unite_names(names: Sequence[str], links: Iterable[tuple[str, str]]) -> list[str]:
    """Return the first name of all that links connect with a name, for each of them."""
    united = DisjointSet(names)
    for first, second in links:
        united.merge(first, second)
    first_names: dict[str, str] = {}
    for name in sorted(set(names)):
        first_names.setdefault(united[name], name)
    return [first_names[united[name]] for name in names]


def _list_groups(
    photos: Sequence[str], groups: Sequence[str], all_scores: FloatArray
) -> list[_Group]:
    """Return the groups in the order of their overall score.

    Those without scores come last, so that strata spread both kinds evenly.
    """
    members = defaultdict(list)
    for i, name in enumerate(groups):
        members[name].append(i)
    listed = []
    for name, rows in members.items():
        critiques = Counter(photos[i] for i in rows)
        mean_scores = _mean_scores(all_scores[rows])
        listed.append(_Group(name, mean_scores, len(critiques), max(critiques.values())))
    return sorted(listed, key=lambda group: (_overall_rank(group.mean_scores), group.name))


def _mean_scores(scores: FloatArray) -> FloatArray:
    """Return the mean (dimensions and overall,) over the records with scores; NaN without any."""
    scored = scores[~np.isnan(scores[:, -1])]
    mean_scores: FloatArray = scored.mean(axis=0) if len(scored) else scores[0]
    return mean_scores


def _overall_rank(mean_scores: FloatArray) -> float:
    return inf if isnan(mean_scores[-1]) else float(mean_scores[-1])


def _assign_held_out(order: Sequence[_Group], params: PrepareParams) -> dict[str, str]:
    """Assign groups, in the order of their overall score, to val and test.

    Many samples have one group from each stratum of neighbors; the result is the sample with
    splits closest to all groups in the mean of every score and to their fractions in photos.
    Morgan & Rubin, "Rerandomization to improve covariate balance in experiments" (2012).
    """
    num_photos = sum(group.photos for group in order)
    small = _list_small_groups(order, num_photos, params)
    if not small:
        return {}
    args = (Random(params.seed), small, len(order), params)
    samples = (_sample_held_out(*args) for _ in range(NUM_CANDIDATE_SPLITS))
    by_name = {group.name: group for group in sorted(order, key=lambda group: group.name)}
    scored = {n: g.mean_scores for n, g in by_name.items() if not isnan(g.mean_scores[-1])}
    if not scored:
        return next(samples)
    all_means = np.array(list(scored.values()))
    center, spread = all_means.mean(axis=0), all_means.std(axis=0) + 1e-9
    fractions = {"val": params.val_fraction, "test": params.test_fraction}

    def imbalance(held_out: dict[str, str]) -> float:
        distances, size_errors = [], []
        for part in set(held_out.values()):
            names = [name for name, p in held_out.items() if p == part]
            means = [scored[name] for name in names if name in scored]
            if not means:
                return inf
            distances.append(float(np.abs((np.mean(means, axis=0) - center) / spread).max()))
            part_fraction = sum(by_name[name].photos for name in names) / num_photos
            size_errors.append(abs(part_fraction / fractions[part] - 1))
        return max(distances) + max(size_errors)

    return min(samples, key=imbalance)


def _list_small_groups(
    order: Sequence[_Group], num_photos: int, params: PrepareParams
) -> list[str]:
    """Return the groups that may be held out; the others stay in train.

    Many critiques of a photo are one observation, and so are many photos of a walk: half of val
    is enough for one.
    """
    max_photos = max(1.0, params.val_fraction * num_photos / 2)
    return [
        group.name
        for group in order
        if group.max_critiques <= params.max_group_in_val and group.photos <= max_photos
    ]


def _sample_held_out(
    rng: Random, order: Sequence[str], num_groups: int, params: PrepareParams
) -> dict[str, str]:
    """Sample one group from each stratum; evenly spaced ones are test, the others val."""
    num_test = max(1, round(params.test_fraction * num_groups)) if params.test_fraction else 0
    num_held_out = min(len(order), max(1, round(params.val_fraction * num_groups)) + num_test)
    edges = [round(i * len(order) / num_held_out) for i in range(num_held_out + 1)]
    sampled = [rng.choice(order[start:end]) for start, end in pairwise(edges)]
    offset = rng.random()
    test = {int((i + offset) * num_held_out / num_test) for i in range(num_test)}
    return {group: "test" if i in test else "val" for i, group in enumerate(sampled)}


def _assign_folds(order: Sequence[_Group], params: PrepareParams) -> dict[str, int]:
    """Assign a fold to each group, different ones to neighbors in the overall score.

    Of neighbors the group with most photos joins the fold with fewest.
    """
    rng = Random(params.seed)
    folds: dict[str, int] = {}
    num_photos = [0] * params.folds
    for start in range(0, len(order) if params.folds else 0, max(1, params.folds)):
        stratum = sorted(order[start : start + params.folds], key=lambda group: -group.photos)
        sampled = rng.sample(range(params.folds), len(stratum))
        for group, fold in zip(stratum, sorted(sampled, key=num_photos.__getitem__), strict=True):
            folds[group.name] = fold
            num_photos[fold] += group.photos
    return folds
