"""Records -> train, val and test: whole groups, dealt so that all three look alike in their scores.

A group is what must not be divided: photographs that show the same, and texts that are shared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.errors import DataError
from mondrian.core.params import Prepare
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import ManifestRecord

SPLIT_PARTS = ("train", "val", "test")
NUM_CANDIDATE_SPLITS = 200  # of which the most even is taken
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SplitItem:
    """What the split has to know of one record."""

    picture: str
    words: str
    scores: tuple[float, ...]  # the seven, and the overall one


@dataclass(frozen=True)
class DatasetSplit:
    """For each record in the order of the manifest: its group, its part and its fold."""

    items: Sequence[SplitItem]
    groups: Sequence[str]
    parts: Sequence[str]
    folds: Sequence[int | None]

    def counts(self) -> dict[str, Any]:
        """What metrics/<advisor>/prepare.json holds."""
        sizes = Counter(self.groups)
        out: dict[str, Any] = {
            "photo_groups": len(sizes),
            "largest_group": max(sizes.values(), default=0),
        }
        for part in SPLIT_PARTS:
            scores = self.scores(part)
            out[part] = {
                "critiques": len(scores),
                "photo_groups": len(self.groups_of(part)),
                "overall_mean": round(float(scores[:, -1].mean()), 3) if len(scores) else None,
                "overall_std": round(float(scores[:, -1].std()), 3) if len(scores) else None,
            }
        if any(fold is not None for fold in self.folds):
            fold_sizes = Counter(fold for fold in self.folds if fold is not None)
            out["folds"] = [fold_sizes[fold] for fold in sorted(fold_sizes)]
        return out

    def groups_of(self, part: str) -> set[str]:
        """The groups dealt to a part."""
        return {g for g, p in zip(self.groups, self.parts, strict=True) if p == part}

    def scores(self, part: str) -> Any:
        """Scores of a part, (critiques, dimensions and overall)."""
        scores = [i.scores for i, p in zip(self.items, self.parts, strict=True) if p == part]
        return np.array(scores, float).reshape(-1, len(DIMENSIONS) + 1)


def make_split_item(record: ManifestRecord) -> SplitItem:
    """The facts of a record that decide where it goes."""
    scores = (*record.critique.scores(), record.critique.overall_score)
    return SplitItem(record.photo.group, record.words, scores)


def split_records(records: Iterable[ManifestRecord], params: Prepare) -> DatasetSplit:
    """Deal whole groups to train, val and test, and to folds where they are asked for."""
    items = [make_split_item(record) for record in records]
    groups = _groups(items)
    members = defaultdict(list)
    for name, member in zip(groups, items, strict=True):
        members[name].append(member.scores)
    group_means = {name: np.mean(members[name], axis=0) for name in sorted(members)}
    order = sorted(group_means, key=lambda name: (group_means[name][-1], name))
    # Many critiques of one photograph are one observation: such a group stays in train.
    small = [name for name in order if len(members[name]) <= params.max_group_in_val]
    part_by_group = _assign_held_out(group_means, small, params)
    folds = _folds([name for name in order if part_by_group.get(name) != "test"], params)
    return DatasetSplit(
        items,
        groups,
        [part_by_group.get(name, "train") for name in groups],
        [folds.get(n) for n in groups],
    )


def _groups(items: Sequence[SplitItem]) -> list[str]:
    """The group of each item, named after the first picture in it."""
    pairs = [(f"picture {part.picture}", f"words {part.words}") for part in items]
    united = DisjointSet(node for pair in pairs for node in pair)
    for picture, words in pairs:
        united.merge(picture, words)
    name: dict[str, str] = {}
    for part in items:
        group = united[f"picture {part.picture}"]
        name[group] = min(name.get(group, part.picture), part.picture)
    return [name[united[f"picture {part.picture}"]] for part in items]


def _assign_held_out(
    group_means: dict[str, Scores], small: Sequence[str], params: Prepare
) -> dict[str, str]:
    """Part of each group that is not train: of many stratified draws the most even one.

    group_means  scores of each group; small  the groups that may be held out, in the order of
    overall

    A draw takes one group from each stratum of neighbours in the overall score. Of DRAWS of them
    that one is taken whose parts are nearest to all in the mean of every score: rerandomisation,
    Morgan & Rubin, "Rerandomization to improve covariate balance in experiments" (2012).
    """
    if not small:
        return {}
    all_means = np.array(list(group_means.values()))
    centre, spread = all_means.mean(axis=0), all_means.std(axis=0) + 1e-9

    def unevenness(part_by_group: dict[str, str]) -> float:
        parts = (
            [group_means[name] for name, p in part_by_group.items() if p == part]
            for part in ("val", "test")
        )
        return max(float(np.abs((np.mean(p, axis=0) - centre) / spread).max()) for p in parts if p)

    rng = Random(params.seed)
    return min(
        (
            _sample_held_out(rng, small, len(group_means), params)
            for _ in range(NUM_CANDIDATE_SPLITS)
        ),
        key=unevenness,
    )


def _sample_held_out(
    rng: Random, order: Sequence[str], groups: int, params: Prepare
) -> dict[str, str]:
    """One group from each stratum; every so manieth of them goes to test, the others to val."""
    test = max(1, round(params.test_fraction * groups)) if params.test_fraction else 0
    n_held_out = min(len(order), max(1, round(params.val_fraction * groups)) + test)
    edges = [round(i * len(order) / n_held_out) for i in range(n_held_out + 1)]
    chosen = [rng.choice(order[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    start = rng.random()
    tested = {int((i + start) * n_held_out / test) for i in range(test)}
    return {name: "test" if i in tested else "val" for i, name in enumerate(chosen)}


def _folds(order: Sequence[str], params: Prepare) -> dict[str, int]:
    """A fold for each group, neighbours in score in different ones."""
    rng = Random(params.seed)
    out: dict[str, int] = {}
    for start in range(0, len(order) if params.folds else 0, max(1, params.folds)):
        stratum = order[start : start + params.folds]
        out.update(zip(stratum, rng.sample(range(params.folds), len(stratum)), strict=True))
    return out


def check_split_sizes(advisor: str, result: DatasetSplit, params: Prepare) -> None:
    """Raise DataError where a part has fewer than params.yaml asks for."""
    counts = result.counts()
    requirements = [
        ("train", "critiques", params.min_train),
        ("val", "photo_groups", params.min_val),
        ("test", "photo_groups", params.min_test if params.test_fraction else 0),
    ]
    faults = [
        f"{part} has {counts[part][key]}, at least {minimum} needed (prepare.min_{part})"
        for part, key, minimum in requirements
        if counts[part][key] < minimum
    ]
    if faults:
        raise DataError(
            f"prepare {advisor}: too few photographs of {counts['photo_groups']} groups: "
            f"{'; '.join(faults)}; link more critiques, lower the numbers in params.yaml, or do "
            "without a test part (prepare.test_fraction: 0); the data report shows what is there"
        )
    if params.folds > (n_groups := len(result.groups_of("train") | result.groups_of("val"))):
        raise DataError(
            f"prepare {advisor}: prepare.folds is {params.folds}, and only {n_groups} groups are "
            "there to be dealt into them; lower it"
        )
