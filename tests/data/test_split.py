from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.data.manifest import ManifestRecord
from mondrian.data.split import DatasetSplit
from tests.data.manifest_records import make_records, record, split


def test_each_split_gets_its_fraction_of_the_photos_by_the_seed() -> None:
    first, repeated, other = (split(make_records(), seed=seed) for seed in (1, 1, 2))
    assert first.parts == repeated.parts != other.parts
    counts = first.counts()
    assert [counts[part]["photo_groups"] for part in ("train", "val", "test")] == [84, 24, 12]


def test_without_a_test_fraction_there_is_no_test_split() -> None:
    assert set(split(make_records(), test_fraction=0.0).parts) == {"train", "val"}


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=40, max_size=90),
    st.sampled_from([0, 4]),
)
def test_no_group_and_no_shared_text_is_divided(
    seed: int, pairs: list[tuple[int, int]], folds: int
) -> None:
    records = [record(i, f"photo-{p}", 100 + t) for i, (p, t) in enumerate(pairs)]
    minimums = {"min_train": 1, "min_val": 1, "min_test": 1, "max_group_in_val": 9}
    try:
        result = split(records, seed=seed, folds=folds, **minimums)
    except DataError:  # all records are in one group
        return
    for key in (lambda r: r.photo.group, lambda r: r.words):
        _assert_not_divided(records, result, key)
    assert set(result.parts) == {"train", "val", "test"}
    for part, fold in zip(result.parts, result.folds, strict=True):
        assert (fold is not None) == (folds > 0 and part != "test")


def _assert_not_divided(
    records: list[ManifestRecord], result: DatasetSplit, key: Callable[[ManifestRecord], str]
) -> None:
    assigned: dict[str, tuple[str, int | None]] = {}
    for item, part, fold in zip(records, result.parts, result.folds, strict=True):
        assert assigned.setdefault(key(item), (part, fold)) == (part, fold)


def test_val_and_test_are_like_train_in_every_score() -> None:
    for seed in range(5):
        result = split(make_records(), seed=seed)
        all_scores = np.concatenate([result.scores(part) for part in ("train", "val", "test")])
        for part in ("val", "test"):
            difference = (result.scores(part).mean(0) - all_scores.mean(0)) / all_scores.std(0)
            assert np.abs(difference).max() < 0.35, part  # of a standard deviation; by chance 0.6


def test_folds_are_of_equal_size_and_similar_scores() -> None:
    result = split(make_records(), folds=5)
    sizes = result.counts()["folds"]
    assert sum(sizes) == 108
    assert max(sizes) - min(sizes) <= 1
    folds = np.array([-1 if fold is None else fold for fold in result.folds])
    overall = result.all_scores[:, -1]
    fold_means = [overall[folds == fold].mean() for fold in range(5)]
    assert np.ptp(fold_means) < 0.3


def test_a_photo_with_too_many_critiques_stays_in_train() -> None:
    often = [record(200 + i, "often") for i in range(4)]
    for seed in range(8):
        result = split(make_records(60) + often, seed=seed)
        assert set(result.parts[60:]) == {"train"}
    assert result.counts()["largest_group"] == 4


def test_too_few_photos_are_an_error_with_the_numbers() -> None:
    message = r"10 groups: train has 7, at least 20 .*; val has 2, at least 8 .*; test has 1, at le"
    with pytest.raises(DataError, match=message):
        split(make_records(10))
    with pytest.raises(DataError, match="prepare.folds is 50, more than the 36 groups"):
        split(make_records(40), folds=50, min_test=1)
    same_photo = [record(i, "same") for i in range(50)]
    with pytest.raises(DataError, match="1 groups: val has 0"):
        split(same_photo)
