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

from mondrian.core.errors import DataError
from mondrian.core.params import Prepare
from mondrian.core.union_find import Groups
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Record

PARTS = ("train", "val", "test")
DRAWS = 200  # of which the most even is taken
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """What the split has to know of one record."""

    picture: str
    words: str
    scores: tuple[float, ...]  # the seven, and the overall one


@dataclass(frozen=True)
class Split:
    """For each record in the order of the manifest: its group, its part and its fold."""

    items: Sequence[Item]
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
        for part in PARTS:
            scores = self.scores(part)
            out[part] = {
                "critiques": len(scores),
                "photo_groups": len(self.groups_of(part)),
                "overall_mean": round(float(scores[:, -1].mean()), 3) if len(scores) else None,
                "overall_std": round(float(scores[:, -1].std()), 3) if len(scores) else None,
            }
        if any(fold is not None for fold in self.folds):
            told = Counter(fold for fold in self.folds if fold is not None)
            out["folds"] = [told[fold] for fold in sorted(told)]
        return out

    def groups_of(self, part: str) -> set[str]:
        """The groups dealt to a part."""
        return {g for g, p in zip(self.groups, self.parts, strict=True) if p == part}

    def scores(self, part: str) -> Any:
        """Scores of a part, (critiques, dimensions and overall)."""
        told = [i.scores for i, p in zip(self.items, self.parts, strict=True) if p == part]
        return np.array(told, float).reshape(-1, len(DIMENSIONS) + 1)


def item(record: Record) -> Item:
    """The facts of a record that decide where it goes."""
    scores = (*record.critique.scores(), record.critique.overall_score)
    return Item(record.photo.group, record.words, scores)


def split(records: Iterable[Record], params: Prepare) -> Split:
    """Deal whole groups to train, val and test, and to folds where they are asked for."""
    items = [item(record) for record in records]
    groups = _groups(items)
    members = defaultdict(list)
    for name, one in zip(groups, items, strict=True):
        members[name].append(one.scores)
    means = {name: np.mean(members[name], axis=0) for name in sorted(members)}
    order = sorted(means, key=lambda name: (means[name][-1], name))
    # Many critiques of one photograph are one observation: such a group stays in train.
    small = [name for name in order if len(members[name]) <= params.max_group_in_val]
    held = _held_out(means, small, params)
    folds = _folds([name for name in order if held.get(name) != "test"], params)
    return Split(
        items, groups, [held.get(name, "train") for name in groups], [folds.get(n) for n in groups]
    )


def _groups(items: Sequence[Item]) -> list[str]:
    """The group of each item, named after the first picture in it."""
    united: Groups[str] = Groups()
    for one in items:
        united.join(f"picture {one.picture}", f"words {one.words}")
    name: dict[str, str] = {}
    for one in items:
        group = united.of(f"picture {one.picture}")
        name[group] = min(name.get(group, one.picture), one.picture)
    return [name[united.of(f"picture {one.picture}")] for one in items]


def _held_out(means: dict[str, Scores], small: Sequence[str], params: Prepare) -> dict[str, str]:
    """Part of each group that is not train: of many stratified draws the most even one.

    means  scores of each group; small  the groups that may be held out, in the order of overall

    A draw takes one group from each stratum of neighbours in the overall score. Of DRAWS of them
    that one is taken whose parts are nearest to all in the mean of every score: rerandomisation,
    Morgan & Rubin, "Rerandomization to improve covariate balance in experiments" (2012).
    """
    if not small:
        return {}
    every = np.array(list(means.values()))
    centre, spread = every.mean(axis=0), every.std(axis=0) + 1e-9

    def unevenness(held: dict[str, str]) -> float:
        parts = ([means[name] for name, p in held.items() if p == part] for part in ("val", "test"))
        return max(float(np.abs((np.mean(p, axis=0) - centre) / spread).max()) for p in parts if p)

    rng = Random(params.seed)
    return min((_draw(rng, small, len(means), params) for _ in range(DRAWS)), key=unevenness)


def _draw(rng: Random, order: Sequence[str], groups: int, params: Prepare) -> dict[str, str]:
    """One group from each stratum; every so manieth of them goes to test, the others to val."""
    test = max(1, round(params.test_share * groups)) if params.test_share else 0
    held = min(len(order), max(1, round(params.val_share * groups)) + test)
    edges = [round(i * len(order) / held) for i in range(held + 1)]
    chosen = [rng.choice(order[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    start = rng.random()
    tested = {int((i + start) * held / test) for i in range(test)}
    return {name: "test" if i in tested else "val" for i, name in enumerate(chosen)}


def _folds(order: Sequence[str], params: Prepare) -> dict[str, int]:
    """A fold for each group, neighbours in score in different ones."""
    rng = Random(params.seed)
    out: dict[str, int] = {}
    for start in range(0, len(order) if params.folds else 0, max(1, params.folds)):
        some = order[start : start + params.folds]
        out.update(zip(some, rng.sample(range(params.folds), len(some)), strict=True))
    return out


def check_enough(advisor: str, result: Split, params: Prepare) -> None:
    """Raise DataError where a part has fewer than params.yaml asks for."""
    counts = result.counts()
    wanted = [
        ("train", "critiques", params.min_train),
        ("val", "photo_groups", params.min_val),
        ("test", "photo_groups", params.min_test if params.test_share else 0),
    ]
    faults = [
        f"{part} has {counts[part][key]}, at least {least} needed (prepare.min_{part})"
        for part, key, least in wanted
        if counts[part][key] < least
    ]
    if faults:
        raise DataError(
            f"prepare {advisor}: too few photographs of {counts['photo_groups']} groups: "
            f"{'; '.join(faults)}; link more critiques, lower the numbers in params.yaml, or do "
            "without a test part (prepare.test_share: 0); the data report shows what is there"
        )
    if params.folds > (dealt := len(result.groups_of("train") | result.groups_of("val"))):
        raise DataError(
            f"prepare {advisor}: prepare.folds is {params.folds}, and only {dealt} groups are "
            "there to be dealt into them; lower it"
        )
