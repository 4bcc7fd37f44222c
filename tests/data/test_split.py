from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.core.params import Prepare, load_params
from mondrian.data.manifest import ManifestRecord, Photo
from mondrian.data.quality_flags import words_hash
from mondrian.data.split import DatasetSplit, check_split_sizes, split_records
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT

PREPARE = load_params(ROOT / "params.yaml").prepare


@cache
def record(i: int, picture: str, text: int | None = None) -> ManifestRecord:
    critique = write_critique("ansel", draw_scene(5, i if text is None else text))
    photo = Photo(
        path=f"{i}.jpg", sha256=f"{i:064x}", width=640, height=512, group=picture, found="as_stored"
    )
    return ManifestRecord(
        job_id=f"job-{i}",
        photo=photo,
        critique=critique,
        words=words_hash(critique),
        text_from="analysis_markdown",
        form="json",
        repairs=(),
        created="",
        mode="",
        model="",
        suspicions=(),
    )


def dealt(records: list[ManifestRecord], **changes: object) -> DatasetSplit:
    params = Prepare.model_validate(PREPARE.model_dump() | changes)
    found = split_records(records, params)
    check_split_sizes("ansel", found, params)
    return found


def many(count: int = 120) -> list[ManifestRecord]:
    return [record(i, f"picture-{i}") for i in range(count)]


def test_a_share_of_the_photographs_goes_to_each_part_and_the_seed_decides_which() -> None:
    first, again, other = (dealt(many(), seed=seed) for seed in (1, 1, 2))
    assert first.parts == again.parts != other.parts
    counts = first.counts()
    assert [counts[part]["photo_groups"] for part in ("train", "val", "test")] == [84, 24, 12]


def test_without_a_share_there_is_no_test() -> None:
    assert set(dealt(many(), test_fraction=0.0).parts) == {"train", "val"}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=40, max_size=90),
    st.sampled_from([0, 4]),
)
def test_nothing_that_belongs_together_is_divided(
    seed: int, drawn: list[tuple[int, int]], folds: int
) -> None:
    records = [record(i, f"picture-{p}", 100 + t) for i, (p, t) in enumerate(drawn)]
    lowest = {"min_train": 1, "min_val": 1, "min_test": 1, "max_group_in_val": 9}
    try:
        found = dealt(records, seed=seed, folds=folds, **lowest)
    except DataError:  # all hang together
        return
    for key in (lambda r: r.photo.group, lambda r: r.words):
        _on_one_side(records, found, key)
    assert set(found.parts) == {"train", "val", "test"}
    for part, fold in zip(found.parts, found.folds, strict=True):
        assert (fold is not None) == (folds > 0 and part != "test")


def _on_one_side(
    records: list[ManifestRecord], found: DatasetSplit, key: Callable[[ManifestRecord], str]
) -> None:
    seen: dict[str, tuple[str, int | None]] = {}
    for one, part, fold in zip(records, found.parts, found.folds, strict=True):
        assert seen.setdefault(key(one), (part, fold)) == (part, fold)


def test_val_and_test_look_like_train_in_every_score() -> None:
    for seed in range(5):
        found = dealt(many(), seed=seed)
        every = np.concatenate([found.scores(part) for part in ("train", "val", "test")])
        for part in ("val", "test"):
            off = (found.scores(part).mean(0) - every.mean(0)) / every.std(0)
            assert np.abs(off).max() < 0.35, part  # of a standard deviation; by chance 0.6


def test_folds_are_of_one_size_and_one_look() -> None:
    found = dealt(many(), folds=5)
    sizes = found.counts()["folds"]
    assert sum(sizes) == 108
    assert max(sizes) - min(sizes) <= 1
    folds = np.array([-1 if fold is None else fold for fold in found.folds])
    overall = np.array([item.scores[-1] for item in found.items])
    means = [overall[folds == fold].mean() for fold in range(5)]
    assert np.ptp(means) < 0.3


def test_a_photograph_critiqued_too_often_stays_in_train() -> None:
    often = [record(200 + i, "often") for i in range(4)]
    for seed in range(8):
        found = dealt(many(60) + often, seed=seed)
        assert set(found.parts[60:]) == {"train"}
    assert found.counts()["largest_group"] == 4


def test_too_few_photographs_are_refused_with_the_numbers() -> None:
    wanted = r"10 groups: train has 7, at least 20 .*; val has 2, at least 5 .*; test has 1, at le"
    with pytest.raises(DataError, match=wanted):
        dealt(many(10))
    with pytest.raises(DataError, match="prepare.folds is 50, and only 36 groups"):
        dealt(many(40), folds=50, min_test=1)
    one = [record(i, "one") for i in range(50)]
    with pytest.raises(DataError, match="1 groups: val has 0"):
        dealt(one)
