"""Photos of one walk are one group: by the times in their EXIF, through link and prepare."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.schema import serialize_critique
from mondrian.data.manifest import ManifestRecord
from mondrian.data.walks import link_walks
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.capturing import make_exif
from tests.data.link_runs import run_link
from tests.data.manifest_records import record, split
from tests.reviewing import add_completed_job, open_store, write_feedback

START = datetime(2026, 5, 3, 9, 0)
NO_MINIMUMS = {"min_train": 1, "min_val": 1, "min_test": 1}


def minute(minutes: float, offset: str = "") -> str:
    return (START + timedelta(minutes=minutes)).isoformat() + offset


def find_walks(times: Sequence[str], minutes: int = 60) -> list[list[int]]:
    """Return the numbers of the photos of each walk, of photos with these times."""
    names = {str(i): i for i in range(len(times))}
    united = DisjointSet(names)
    for first, second in link_walks(zip(names, times, strict=True), minutes):
        united.merge(first, second)
    return sorted(sorted(names[n] for n in walk) for walk in united.subsets() if len(walk) > 1)


def test_photos_chain_into_a_walk_until_there_is_a_longer_break() -> None:
    assert find_walks(
        [minute(0), minute(60), minute(119), minute(180), minute(600), minute(601)]
    ) == [[0, 1, 2], [4, 5]]
    assert find_walks([minute(0), minute(31)], 30) == []
    assert find_walks([minute(0), minute(0)], 0) == []


def test_photos_without_a_time_are_of_no_walk() -> None:
    assert find_walks(["", minute(0), "", minute(5), "damaged"]) == [[1, 3]]


def test_times_with_offsets_are_compared_in_utc_and_others_by_the_clock() -> None:
    assert find_walks([minute(0, "+02:00"), minute(-60, "+01:00")], 5) == [[0, 1]]
    assert find_walks([minute(0, "+02:00"), minute(0, "-05:00")]) == []
    assert find_walks([minute(0, "+02:00"), minute(5), minute(300, "+02:00")]) == [[0, 1]]


def test_a_clock_that_stood_still_links_nothing_and_a_burst_is_one_walk() -> None:
    assert find_walks([minute(0)] * 11 + [minute(500), minute(501)]) == [[11, 12]]
    assert find_walks([minute(0)] * 10) == [list(range(10))]
    burst = [minute(i / 60 / 30) for i in range(3000)]  # 30 photos a second
    assert find_walks(burst, 1) == [list(range(3000))]


@given(
    st.lists(
        st.tuples(st.datetimes(), st.sampled_from(["", "+00:00", "+14:00", "-12:00"])), max_size=12
    ),
    st.integers(1, 10_080),
    st.randoms(),
)
def test_walks_depend_on_no_order(
    moments: list[tuple[datetime, str]], minutes: int, random: Random
) -> None:
    times = [f"{moment.isoformat()}{offset}" for moment, offset in moments]
    order = list(range(len(times)))
    random.shuffle(order)
    shuffled = find_walks([times[i] for i in order], minutes)
    assert sorted(sorted(order[i] for i in walk) for walk in shuffled) == find_walks(times, minutes)


def records_of(walk_sizes: Sequence[int]) -> list[ManifestRecord]:
    """Return records of walks with so many photos each, a day apart."""
    records: list[ManifestRecord] = []
    for day, size in enumerate(walk_sizes):
        for i in range(size):
            plain = record(len(records), f"photo-{len(records):04}")
            photo = plain.photo.model_copy(update={"captured": minute(1440 * day + 10 * i)})
            records.append(plain.model_copy(update={"photo": photo}))
    return records


def test_a_walk_is_in_one_split_and_one_fold_and_is_one_observation() -> None:
    sizes = [1, 2, 3, 4, 5] * 12
    records = records_of(sizes)
    result = split(records, folds=5, max_group_in_val=3)
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        for values in (result.groups, result.parts, result.folds):
            assert len(set(values[rows])) == 1
        start += size
    counts = result.counts()
    assert (counts["photos"], counts["photo_groups"], counts["walks"]) == (180, 60, 48)
    assert (counts["walk_photos"], counts["largest_walk"], counts["timed_photos"]) == (168, 5, 180)
    assert counts["val"]["photo_groups"] == 12
    assert 30 <= counts["val"]["critiques"] <= 42  # a fifth is 36
    assert max(counts["folds"]) - min(counts["folds"]) <= 8
    apart = split(records, session_minutes=0)
    assert apart.counts()["photo_groups"] == 180
    assert apart.counts()["walks"] == 0


def test_a_burst_of_thousands_stays_in_train() -> None:
    for seed in range(4):
        result = split(records_of([2000, *[1] * 60]), seed=seed)
        assert set(result.parts[:2000]) == {"train"}


def test_critiques_of_one_photo_are_no_walk() -> None:
    records = records_of([1] * 60)
    photo = records[0].photo
    twice = [*records, record(99, photo.group).model_copy(update={"photo": photo})]
    assert split(twice).counts()["walks"] == 0


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ([10] * 6, {}, "val has 0, at least 8 needed"),
        ([10] * 7, NO_MINIMUMS | {"test_fraction": 0}, "train and val have 7, a verdict needs"),
        ([4] * 16, NO_MINIMUMS | {"folds": 15}, "folds is 15, more than the 14 groups"),
    ],
)
def test_too_few_walks_are_one_error_that_names_the_setting(
    sizes: list[int], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        split(records_of(sizes), **changes)
    text = str(error.value)
    assert "\n" not in text
    assert f"{len(sizes)} walks, which count as one photo each" in text
    assert "lower prepare.session_minutes (60; 0 = off)" in text
    split(records_of(sizes), session_minutes=0, **changes)


def link_list(
    folder: Path, times: Sequence[str], photos: Sequence[Image.Image], params: Params, **rules: str
) -> dict[str, str]:
    """Link a list of critiques of photos with these EXIF times; return the times by job."""
    (folder / "source").mkdir(exist_ok=True)
    entries = []
    for i, (time, photo) in enumerate(zip(times, photos, strict=False)):
        path = folder / "source" / f"{i}.jpg"
        photo.save(path, exif=make_exif(time, model=f"camera {i}"))
        critique = json.loads(serialize_critique(write_critique("ansel", draw_scene(5, i))))
        entries.append({"id": str(i), "photo": path.name, "critique": critique})
    source = folder / "critiques.jsonl"
    source.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    records = run_link(source, params, **rules).records
    return {record.job_id: record.photo.captured for record in records}


def test_link_keeps_the_time_of_the_photos_of_a_list(
    tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    times = ["2026:05:03 09:00:00", "", "0000:00:00 00:00:00", "2026:05:03 09:20:00"]
    linked = link_list(tmp_path, times, photos, params)
    assert linked == {"0": "2026-05-03T09:00:00", "1": "", "2": "", "3": "2026-05-03T09:20:00"}
    assert find_walks(list(linked.values())) == [[0, 3]]  # of two cameras


def test_a_thumbnail_instead_of_a_missing_photo_has_the_time_that_it_contains(
    make_db: Callable[..., Path], tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    texts = [serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(2)]
    database = make_db(
        *({"filename": f"{i}.jpg", "analysis_markdown": text} for i, text in enumerate(texts))
    )
    folder = tmp_path / "source" / "thumbnails"
    folder.mkdir()
    photos[0].save(folder / "0.jpg", exif=make_exif("2026:05:03 09:00:00"))
    photos[1].save(folder / "1.jpg")
    records = run_link(database, params, thumbnails="use").records
    assert [record.photo.captured for record in records] == ["2026-05-03T09:00:00", ""]
    assert {record.photo.match_kind for record in records} == {"thumbnail"}


def test_an_upload_of_the_service_has_the_time_that_was_noted_before_its_exif_was_dropped(
    tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    (tmp_path / "source" / "uploads").mkdir(parents=True)
    store = open_store(tmp_path / "mondrian.db")
    notes = [json.dumps({"time": "2026-05-03 09:00"}), json.dumps({"time": 7}), "[", None]
    for i, exposure in enumerate(notes):
        photos[i].save(tmp_path / "source/uploads" / f"{i}.jpg")
        critique = write_critique("ansel", draw_scene(5, i))
        row = add_completed_job(store, critique, f"uploads/{i}.jpg", exposure=exposure)
        write_feedback(store, row, critique, verdict="accepted", critique=None, who="Ana")
    records = run_link(tmp_path / "mondrian.db", params).records
    times = {record.photo.path.rsplit("/", 1)[-1]: record.photo.captured for record in records}
    assert times == {"0.jpg": "2026-05-03T09:00:00", "1.jpg": "", "2.jpg": "", "3.jpg": ""}
