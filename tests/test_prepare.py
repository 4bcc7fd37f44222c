import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.errors import DataError
from mondrian.files import file_hash
from mondrian.manifest import Manifest, Photo, Record
from mondrian.params import Params, load_params
from mondrian.photo import distance, phashes, same_pictures
from mondrian.prepare import Split, split, write_split
from mondrian.rows import read_rows, row_file
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.voice import write
from tests.conftest import ROOT


def record(i: int, photo: Photo) -> Record:
    return Record(
        job_id=f"job-{i}", photo=photo, critique=write("ansel", draw_scene(5, i)),
        text_from="analysis_markdown", form="json", created="", mode="baseline", model="",
    )  # fmt: skip


def manifest(records: list[Record]) -> Manifest:
    count = len(records)
    return Manifest(advisor="ansel", jobs=count, finished=count, records=records, rejected=[])


def picture(folder: Path, i: int, quality: int = 90) -> Photo:
    path = folder / f"{i}-{quality}.jpg"
    image = render(draw_scene(5, i), 320, 256)
    image.save(path, quality=quality)
    return Photo(path=str(path), sha256=file_hash(path), phashes=phashes(image), found="as_stored")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("photos")
    return [record(i, picture(folder, i)) for i in range(40)]


def sides(result: Split) -> dict[str, str]:
    return {r.job_id: side for side, part in result.parts().items() for r, _ in part}


def test_a_photo_under_two_names_stays_on_one_side_of_the_split(
    records: list[Record], tmp_path: Path, params: Params
) -> None:
    copies = [record(100 + i, picture(tmp_path, i, quality=40)) for i in range(12)]
    found = sides(split(manifest(records + copies), params.prepare, 10))
    assert {found[f"job-{i}"] == found[f"job-{100 + i}"] for i in range(12)} == {True}
    assert set(found.values()) == {"train", "val"}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 14), min_size=40, max_size=80).filter(
        lambda drawn: len(set(drawn)) > 1
    ),
)
def test_no_val_photograph_resembles_one_of_train(seed: int, drawn: list[int]) -> None:
    rng = np.random.default_rng(0)
    hashes: Any = [tuple(int(h) for h in rng.integers(2**63, size=4)) for _ in range(15)]
    records = [
        record(
            i,
            Photo(
                path="", sha256=sha256(b"%d" % i).hexdigest(), phashes=hashes[k], found="as_stored"
            ),
        )
        for i, k in enumerate(drawn)
    ]
    settings_ = load_params(ROOT / "params.yaml").prepare.model_copy(
        update={"seed": seed, "min_train": 1, "min_val": 1}
    )
    result = split(manifest(records), settings_, 10)
    train = [r.photo.phashes for r, _ in result.train]
    for r, _ in result.val:
        assert all(distance(a, b) > 10 for h in train for a in h for b in r.photo.phashes)
    assert len(result.train) + len(result.val) == len(records)


def test_a_fifth_of_the_photographs_goes_to_val_and_the_seed_decides_which(
    records: list[Record], params: Params
) -> None:
    groups = len(set(same_pictures([r.photo.phashes for r in records], 10)))
    results = [
        split(manifest(records), params.prepare.model_copy(update={"seed": seed}), 10)
        for seed in (1, 1, 2)
    ]
    first, again, other = (sides(result) for result in results)
    assert first == again != other
    assert results[0].counts()["val_photo_groups"] == round(0.2 * groups)


def test_too_few_photographs_are_refused_with_the_numbers(
    records: list[Record], params: Params
) -> None:
    with pytest.raises(DataError, match=r"train has 8, at least 20 .*; val has 2, at least 5"):
        split(manifest(records[:10]), params.prepare, 10)


def test_rows_are_what_other_trainers_read(
    records: list[Record], params: Params, tmp_path: Path
) -> None:
    result = split(manifest(records), params.prepare, 10)
    write_split(result, "ansel", "You are Ansel.", params.image, tmp_path / "rows")
    path = row_file(tmp_path / "rows", "ansel", "train")
    rows = json.loads(path.read_text())
    assert len(rows) == len(result.train)
    for row in rows:
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert all(isinstance(m["content"], str) for m in row["messages"])
        assert sum(m["content"].count("<image>") for m in row["messages"]) == len(row["images"])
        with Image.open(row["images"][0]) as shown:
            assert shown.size == (160, 128)
            assert not shown.getexif()
    assert [row.id for row in read_rows(path)] == [row["id"] for row in rows]


def test_moved_rows_find_their_photographs(
    records: list[Record], params: Params, tmp_path: Path
) -> None:
    result = split(manifest(records), params.prepare, 10)
    write_split(result, "ansel", "You are Ansel.", params.image, tmp_path / "rows")
    (tmp_path / "rows").rename(tmp_path / "moved")
    path = row_file(tmp_path / "moved", "ansel", "val")
    first = read_rows(path)[0]
    assert first.images[0].startswith(str(tmp_path / "moved"))
    Path(first.images[0]).unlink()
    with pytest.raises(DataError, match=f"row {first.id} has no photograph"):
        read_rows(path)
