"""Split records into train, val and test by whole groups, with similar scores in all three.

A group must not be divided: near-duplicate photos, and photos that have a text in common.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.errors import DataError
from mondrian.core.fields import FloatArray
from mondrian.core.params import Prepare
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import ManifestRecord

SPLIT_PARTS = ("train", "val", "test")
NUM_CANDIDATE_SPLITS = 200  # of which the most balanced one is used


@dataclass(frozen=True)
class SplitItem:
    """The facts of a record that the split depends on."""

    picture: str
    words: str
    scores: tuple[float, ...]  # the seven, and the overall one


@dataclass(frozen=True)
class DatasetSplit:
    """Group, split and fold of each record, in the order of the manifest."""

    items: Sequence[SplitItem]
    groups: Sequence[str]
    parts: Sequence[str]
    folds: Sequence[int | None]

    def counts(self) -> dict[str, Any]:
        """Return the content of metrics/<advisor>/prepare.json."""
        sizes = Counter(self.groups)
        out: dict[str, Any] = {
            "photo_groups": len(sizes),
            "largest_group": max(sizes.values(), default=0),
        }
        for part in SPLIT_PARTS:
            overall = self.scores(part)[:, -1]
            out[part] = {
                "critiques": len(overall),
                "photo_groups": len(self.groups_of(part)),
                "overall_mean": round(float(overall.mean()), 3) if len(overall) else None,
                "overall_std": round(float(overall.std()), 3) if len(overall) else None,
            }
        fold_sizes = Counter(fold for fold in self.folds if fold is not None)
        if fold_sizes:
            out["folds"] = [fold_sizes[fold] for fold in sorted(fold_sizes)]
        return out

    def groups_of(self, part: str) -> set[str]:
        return {group for group, p in zip(self.groups, self.parts, strict=True) if p == part}

    def scores(self, part: str) -> FloatArray:
        """Return the scores of a split, (critiques, dimensions and overall)."""
        scores = [item.scores for item, p in zip(self.items, self.parts, strict=True) if p == part]
        return np.array(scores, float).reshape(-1, len(DIMENSIONS) + 1)


def make_split_item(record: ManifestRecord) -> SplitItem:
    scores = (*record.critique.scores(), record.critique.overall_score)
    return SplitItem(record.photo.group, record.words, scores)


def split_records(records: Iterable[ManifestRecord], params: Prepare) -> DatasetSplit:
    """Assign whole groups to train, val and test, and to folds if params ask for them."""
    items = [make_split_item(record) for record in records]
    groups = _find_groups(items)
    scores_by_group = defaultdict(list)
    for group, item in zip(groups, items, strict=True):
        scores_by_group[group].append(item.scores)
    means = {group: np.mean(scores_by_group[group], axis=0) for group in sorted(scores_by_group)}
    order = sorted(means, key=lambda group: (means[group][-1], group))
    # Many critiques of one photo are one observation: such a group stays in train.
    small = [group for group in order if len(scores_by_group[group]) <= params.max_group_in_val]
    held_out = _assign_held_out(means, small, params)
    folds = _assign_folds([group for group in order if held_out.get(group) != "test"], params)
    parts = [held_out.get(group, "train") for group in groups]
    return DatasetSplit(items, groups, parts, [folds.get(group) for group in groups])


def _find_groups(items: Sequence[SplitItem]) -> list[str]:
    """Return the group of each item, named after its first picture in alphabetical order."""
    pairs = [(f"picture {item.picture}", f"words {item.words}") for item in items]
    united = DisjointSet(node for pair in pairs for node in pair)
    for picture, words in pairs:
        united.merge(picture, words)
    roots = [united[picture] for picture, _ in pairs]
    names: dict[str, str] = {}
    for root, item in zip(roots, items, strict=True):
        names[root] = min(names.get(root, item.picture), item.picture)
    return [names[root] for root in roots]


def _assign_held_out(
    group_means: dict[str, FloatArray], small: Sequence[str], params: Prepare
) -> dict[str, str]:
    """Assign groups to val and test: the most balanced of many stratified samples.

    group_means  mean scores of each group
    small        groups that may be held out, in the order of their overall score

    A sample has one group from each stratum of neighbours in the overall score. The sample whose
    splits are closest to all groups in the mean of every score is used: rerandomization, Morgan &
    Rubin, "Rerandomization to improve covariate balance in experiments" (2012).
    """
    if not small:
        return {}
    all_means = np.array(list(group_means.values()))
    center, spread = all_means.mean(axis=0), all_means.std(axis=0) + 1e-9

    def imbalance(held_out: dict[str, str]) -> float:
        parts = (
            [group_means[group] for group, p in held_out.items() if p == part]
            for part in ("val", "test")
        )
        return max(float(np.abs((np.mean(p, axis=0) - center) / spread).max()) for p in parts if p)

    rng = Random(params.seed)
    n_groups = len(group_means)
    samples = (_sample_held_out(rng, small, n_groups, params) for _ in range(NUM_CANDIDATE_SPLITS))
    return min(samples, key=imbalance)


def _sample_held_out(
    rng: Random, order: Sequence[str], n_groups: int, params: Prepare
) -> dict[str, str]:
    """Sample one group from each stratum; evenly spaced ones are test, the others val."""
    n_test = max(1, round(params.test_fraction * n_groups)) if params.test_fraction else 0
    n_held_out = min(len(order), max(1, round(params.val_fraction * n_groups)) + n_test)
    edges = [round(i * len(order) / n_held_out) for i in range(n_held_out + 1)]
    sampled = [rng.choice(order[start:end]) for start, end in pairwise(edges)]
    offset = rng.random()
    test = {int((i + offset) * n_held_out / n_test) for i in range(n_test)}
    return {group: "test" if i in test else "val" for i, group in enumerate(sampled)}


def _assign_folds(order: Sequence[str], params: Prepare) -> dict[str, int]:
    """Assign a fold to each group, different ones to neighbours in the overall score."""
    rng = Random(params.seed)
    folds: dict[str, int] = {}
    for start in range(0, len(order) if params.folds else 0, max(1, params.folds)):
        stratum = order[start : start + params.folds]
        folds.update(zip(stratum, rng.sample(range(params.folds), len(stratum)), strict=True))
    return folds


def check_split_sizes(advisor: str, split: DatasetSplit, params: Prepare) -> None:
    """Raise DataError if a split is smaller than params.yaml requires."""
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
            "have no test split (prepare.test_fraction: 0); the data report shows the counts"
        )
    n_groups = len(split.groups_of("train") | split.groups_of("val"))
    if params.folds > n_groups:
        raise DataError(
            f"prepare {advisor}: prepare.folds is {params.folds}, more than the {n_groups} groups; "
            "lower it"
        )
