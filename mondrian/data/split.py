"""Split records into train, val and test by whole groups, with similar scores in all three.

A group must not be divided: near-duplicate photos, and photos that have a text in common.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isnan, nan
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.errors import DataError
from mondrian.core.fields import FloatArray
from mondrian.core.params import PrepareParams
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import ManifestRecord

SPLIT_PARTS = ("train", "val", "test")
NUM_CANDIDATE_SPLITS = 200  # of which the most balanced one is used


@dataclass(frozen=True)
class DatasetSplit:
    """Scores, group, split and fold of each record, in the order of the manifest."""

    all_scores: FloatArray  # (records, dimensions and overall); NaN if only its text is used
    groups: Sequence[str]
    parts: Sequence[str]
    folds: Sequence[int | None]

    def counts(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/prepare.json."""
        sizes = Counter(self.groups)
        largest = max(sizes.values(), default=0)
        counts: dict[str, Any] = {"photo_groups": len(sizes), "largest_group": largest}
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


def split_records(records: Iterable[ManifestRecord], params: PrepareParams) -> DatasetSplit:
    """Assign whole groups to train, val and test, and to folds if params ask for them."""
    pairs, scores = [], []
    for record in records:
        pairs.append((record.photo.group, record.words))
        row = (*record.critique.scores(), record.critique.overall_score)
        scores.append(row if record.scored else (nan,) * len(row))
    all_scores = np.array(scores, float).reshape(-1, len(DIMENSIONS) + 1)
    groups = _find_groups(pairs)
    members = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    group_means = {group: _mean_scores(all_scores[members[group]]) for group in sorted(members)}
    # Groups without scores come last, so that strata spread both kinds evenly.
    order = sorted(group_means, key=lambda group: (_overall_rank(group_means[group]), group))
    # Many critiques of one photo are one observation: such a group stays in train.
    small = [group for group in order if len(members[group]) <= params.max_group_in_val]
    held_out = _assign_held_out(group_means, small, params)
    folds = _assign_folds([group for group in order if held_out.get(group) != "test"], params)
    parts = [held_out.get(group, "train") for group in groups]
    return DatasetSplit(all_scores, groups, parts, [folds.get(group) for group in groups])


def _mean_scores(scores: FloatArray) -> FloatArray:
    """Return the mean (dimensions and overall,) over the records with scores; NaN without any."""
    scored = scores[~np.isnan(scores[:, -1])]
    mean_scores: FloatArray = scored.mean(axis=0) if len(scored) else scores[0]
    return mean_scores


def _overall_rank(mean_scores: FloatArray) -> float:
    return inf if isnan(mean_scores[-1]) else float(mean_scores[-1])


def _find_groups(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the group of each (photo group, words) pair, named after its first photo group."""
    united = DisjointSet()
    for photos, words in pairs:
        united.add(("photos", photos))
        united.add(("words", words))
        united.merge(("photos", photos), ("words", words))
    roots = [united["photos", photos] for photos, _ in pairs]
    names: dict[tuple[str, str], str] = {}
    for root, (photos, _) in zip(roots, pairs, strict=True):
        names[root] = min(names.get(root, photos), photos)
    return [names[root] for root in roots]


def _assign_held_out(
    group_means: dict[str, FloatArray], small: Sequence[str], params: PrepareParams
) -> dict[str, str]:
    """Assign small groups, in the order of their overall score, to val and test.

    Many samples have one group from each stratum of neighbors; the result is the sample with
    splits closest to all groups in the mean of every score. Morgan & Rubin,
    "Rerandomization to improve covariate balance in experiments" (2012).
    """
    if not small:
        return {}
    args = (Random(params.seed), small, len(group_means), params)
    samples = (_sample_held_out(*args) for _ in range(NUM_CANDIDATE_SPLITS))
    scored_means = {group: mean for group, mean in group_means.items() if not isnan(mean[-1])}
    if not scored_means:
        return next(samples)
    all_means = np.array(list(scored_means.values()))
    center, spread = all_means.mean(axis=0), all_means.std(axis=0) + 1e-9

    def imbalance(held_out: dict[str, str]) -> float:
        distances = []
        for part in set(held_out.values()):
            groups = [g for g, p in held_out.items() if p == part and g in scored_means]
            if not groups:
                return inf
            mean = np.mean([scored_means[group] for group in groups], axis=0)
            distances.append(float(np.abs((mean - center) / spread).max()))
        return max(distances)

    return min(samples, key=imbalance)


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


def _assign_folds(order: Sequence[str], params: PrepareParams) -> dict[str, int]:
    """Assign a fold to each group, different ones to neighbors in the overall score."""
    rng = Random(params.seed)
    folds: dict[str, int] = {}
    for start in range(0, len(order) if params.folds else 0, max(1, params.folds)):
        stratum = order[start : start + params.folds]
        folds.update(zip(stratum, rng.sample(range(params.folds), len(stratum)), strict=True))
    return folds


def check_split_sizes(advisor: str, split: DatasetSplit, params: PrepareParams) -> None:
    counts = split.counts()
    requirements = (
        ("train", "critiques", params.min_train),
        ("val", "photo_groups", params.min_val),
        ("test", "photo_groups", params.min_test if params.test_fraction else 0),
    )
    problems = [
        f"{part} has {counts[part][key]}, at least {minimum} needed (prepare.min_{part})"
        for part, key, minimum in requirements
        if counts[part][key] < minimum
    ]
    if problems:
        raise DataError(
            f"prepare {advisor}: too few photos in {counts['photo_groups']} groups: "
            f"{'; '.join(problems)}; link more critiques, lower the numbers in params.yaml, or "
            "have no test split (prepare.test_fraction: 0)"
        )
    _check_scored_photos(advisor, split, params)
    num_groups = len(split.part_groups("train") | split.part_groups("val"))
    if params.folds > num_groups:
        raise DataError(
            f"prepare {advisor}: prepare.folds is {params.folds}, more than the {num_groups} "
            "groups; lower it"
        )


def _check_scored_photos(advisor: str, split: DatasetSplit, params: PrepareParams) -> None:
    """Raise DataError if the verdict would always be INCONCLUSIVE: too few photos have scores."""
    problems = [
        f"{part} has {count}, at least {minimum} needed"
        for part, minimum in (("train", 1), ("val", params.min_val))
        if (count := len(split.scored_groups(part))) < minimum
    ]
    if problems:
        raise DataError(
            f"prepare {advisor}: too few photos with scores: {'; '.join(problems)}; no verdict on "
            "scores is possible without them: link more critiques with scores, raise "
            "prepare.val_fraction, or lower prepare.min_val"
        )
