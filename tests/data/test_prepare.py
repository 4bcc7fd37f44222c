import json
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.critique.rows import read_rows, row_path
from mondrian.critique.schema import serialize_critique
from mondrian.data.manifest import Manifest, Photo
from mondrian.data.prepare import check_advisor, write_split
from mondrian.data.split import DatasetSplit, split_records
from mondrian.sample.scene import draw_scene, render
from tests.data.manifest_records import record, write_records


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("photos")
    records = []
    for i in range(50):
        path = folder / f"{i}.jpg"
        render(draw_scene(5, i), 320, 256).save(path)
        photo = Photo(
            path=str(path),
            sha256=file_hash(path),
            width=320,
            height=256,
            group=f"photo-{i}",
            match_kind="as_stored",
        )
        records.append(record(i, f"photo-{i}").model_copy(update={"photo": photo}))
    write_records(folder / "m.json", records)
    return Manifest(folder / "m.json")


@pytest.fixture
def split(manifest: Manifest, params: Params) -> DatasetSplit:
    settings = params.prepare.model_copy(update={"folds": 3})
    return split_records(manifest.records(), settings)


def test_rows_are_what_other_trainers_read(
    manifest: Manifest, split: DatasetSplit, params: Params, tmp_path: Path
) -> None:
    write_split(manifest, split, "You are Ansel.", params.image, tmp_path / "rows")
    expected = {f"ansel/{r.job_id}": serialize_critique(r.critique) for r in manifest.records()}
    answers = {}
    for part in ("train", "val", "test"):
        path = row_path(tmp_path / "rows", "ansel", part)
        rows = json.loads(path.read_text())
        assert len(rows) == split.counts()[part]["critiques"]
        for row in rows:
            assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
            assert sum(m["content"].count("<image>") for m in row["messages"]) == 1
            with Image.open(row["images"][0]) as image:
                assert image.size == (160, 128)
                assert not image.getexif()
            answers[row["id"]] = row["messages"][-1]["content"]
            assert (row["fold"] is None) == (part == "test")
        assert [row.id for row in read_rows(path)] == [row["id"] for row in rows]
    assert answers == expected


def test_without_a_test_fraction_there_is_no_test_file(
    manifest: Manifest, params: Params, tmp_path: Path
) -> None:
    settings = params.prepare.model_copy(update={"test_fraction": 0.0})
    result = split_records(manifest.records(), settings)
    write_split(manifest, result, "You are Ansel.", params.image, tmp_path / "rows")
    assert not row_path(tmp_path / "rows", "ansel", "test").exists()


def test_moved_rows_find_their_images(
    manifest: Manifest, split: DatasetSplit, params: Params, tmp_path: Path
) -> None:
    write_split(manifest, split, "You are Ansel.", params.image, tmp_path / "rows")
    (tmp_path / "rows").rename(tmp_path / "moved")
    path = row_path(tmp_path / "moved", "ansel", "val")
    first = read_rows(path)[0]
    assert first.images[0].startswith(str(tmp_path / "moved"))
    Path(first.images[0]).unlink()
    with pytest.raises(DataError, match=f"row {first.id} has no image"):
        read_rows(path)


def test_a_missing_photo_leaves_the_old_rows(
    manifest: Manifest, split: DatasetSplit, params: Params, tmp_path: Path
) -> None:
    write_split(manifest, split, "You are Ansel.", params.image, tmp_path / "rows")
    records = list(manifest.records())
    missing = records[3].photo.model_copy(update={"path": str(tmp_path / "gone.jpg")})
    records[3] = records[3].model_copy(update={"photo": missing})
    write_records(tmp_path / "m.json", records)
    before = sorted(p.name for p in (tmp_path / "rows").rglob("*"))
    with pytest.raises(DataError, match=r"gone\.jpg: no such file; .*run link again"):
        write_split(Manifest(tmp_path / "m.json"), split, "You.", params.image, tmp_path / "rows")
    assert sorted(p.name for p in (tmp_path / "rows").rglob("*")) == before


def test_another_photo_under_the_same_name_is_an_error(
    manifest: Manifest, split: DatasetSplit, params: Params, tmp_path: Path
) -> None:
    records = list(manifest.records())
    other = tmp_path / "other.jpg"
    other.write_bytes(Path(records[0].photo.path).read_bytes())
    swapped = records[3].photo.model_copy(update={"path": str(other)})
    records[3] = records[3].model_copy(update={"photo": swapped})
    write_records(tmp_path / "m.json", records)
    with pytest.raises(DataError, match="is not the photo that link read"):
        write_split(Manifest(tmp_path / "m.json"), split, "You.", params.image, tmp_path / "rows")


def test_images_that_prepare_did_not_write_are_not_deleted(
    manifest: Manifest, split: DatasetSplit, params: Params, tmp_path: Path
) -> None:
    holiday = tmp_path / "rows" / "images" / "holiday.png"
    holiday.parent.mkdir(parents=True)
    holiday.touch()
    with pytest.raises(DataError, match=r"images/holiday\.png.*which this step did not write"):
        write_split(manifest, split, "You.", params.image, tmp_path / "rows")
    assert holiday.exists()


def test_a_manifest_of_another_advisor_is_an_error(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="manifest of 'ansel', not of 'okeefe'"):
        check_advisor(manifest, "okeefe")
