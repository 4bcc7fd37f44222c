"""mondrian suggest: every file, near-duplicates, critiqued photos, the list for label."""

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.cli.label import select_photos
from mondrian.cli.suggest import find_critiqued, main
from mondrian.core.errors import DataError
from mondrian.core.params import load_params
from mondrian.inference.photo_files import PhotoListing
from mondrian.sample.photos import write_copy, write_photo
from tests.conftest import ROOT
from tests.data.manifest_records import record, write_records

NUM_PHOTOS = 8
BROKEN = {"blank.png", "cut.jpg", "empty.jpg", "notes.txt"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos in a folder next to a project without data."""
    project, folder = tmp_path / "project", tmp_path / "photos"
    project.mkdir()
    (project / "models").symlink_to(ROOT / "models")
    shutil.copy(ROOT / "params.yaml", project)
    monkeypatch.chdir(project)
    (folder / "more").mkdir(parents=True)
    for i in range(NUM_PHOTOS):
        write_photo((21, i, folder / ("more" if i % 3 == 0 else "") / f"IMG_{i:02}.jpg"))
    return folder


def write_broken(folder: Path) -> None:
    photo = (folder / "IMG_01.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("notes")
    Image.new("RGB", (640, 480), "gray").save(folder / "blank.png")


def name_of(entry: Any) -> str:
    """Return the file's name of an entry of the JSON."""
    return Path(entry if isinstance(entry, str) else entry["photo"]).name


def suggest(folder: Path, capsys: Any, *arguments: object) -> Any:
    main([str(folder), "--advisor", "ansel", *map(str, arguments)])
    return capsys.readouterr().out


@pytest.mark.slow
def test_every_file_is_suggested_or_accounted_for(folder: Path, capsys: Any) -> None:
    write_broken(folder)
    write_copy(folder / "IMG_01.jpg", folder / "near.jpg", 0)
    shutil.copy(folder / "IMG_02.jpg", folder / "same.jpg")
    write_copy(folder / "IMG_04.jpg", folder / "of_critiqued.jpg", 2)
    (folder / "critiques.jsonl").write_text(
        json.dumps({"photo": "IMG_04.jpg", "advisor": "ansel", "critique": {"dimensions": []}})
        + '\n{"photo": "gone.jpg", "advisor": "ansel", "critique": {}}\n'
    )
    output = folder.parent / "next.txt"
    result = json.loads(suggest(folder, capsys, "--count", 3, "--output", output, "--json"))
    names = {part: [name_of(entry) for entry in entries] for part, entries in result.items()}
    assert len(names["suggested"]) == 3
    assert len(names["not_suggested"]) == NUM_PHOTOS - 1 - 3
    assert names["near_duplicates"] == ["near.jpg", "same.jpg"]
    assert names["critiqued"] == ["IMG_04.jpg", "of_critiqued.jpg"]
    assert set(names["skipped"]) == BROKEN | {"critiques.jsonl"}
    every = [name for part in names.values() for name in part]
    assert sorted(every) == sorted(path.name for path in folder.rglob("*") if path.is_file())

    lines = output.read_text().splitlines()
    assert [Path(line).name for line in lines] == names["suggested"]
    chosen = select_photos(PhotoListing([folder], folder / "none"), output)
    assert [str(photo.path) for photo in chosen] == lines

    table = suggest(folder, capsys, "--count", 3)
    assert [line for line in table.splitlines() if "critiqued IMG_04.jpg" in line]
    assert "3 suggested, 4 other photos, 2 near-duplicates of these, 2 critiqued" in table
    assert "compared with 1 critiqued photos" in table
    assert "skipped 5: " in table
    assert "1 critiqued photos were not found" in table
    assert max(map(len, table.partition("skipped 5:")[0].splitlines())) <= 100


@pytest.mark.slow
def test_without_any_critique_the_first_one_is_typical(folder: Path, capsys: Any) -> None:
    table = suggest(folder, capsys, "--count", 100)
    assert "the most typical one" in table.splitlines()[2]
    assert f"{NUM_PHOTOS} suggested, 0 other photos" in table


def test_photos_of_the_last_link_are_critiqued_unless_they_are_of_the_sample(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dvc.yaml", ".")
    photos = sorted(folder.rglob("*.jpg"))
    records = [record(i, f"g{i}") for i in range(len(photos) + 1)]
    paths = [*photos, folder / "gone.jpg"]
    linked = [
        r.model_copy(update={"photo": r.photo.model_copy(update={"path": str(path)})})
        for r, path in zip(records, paths, strict=True)
    ]
    manifest = Path("data/linked/ansel/training_data_manifest.json")
    manifest.parent.mkdir(parents=True)
    write_records(manifest, linked)
    with pytest.raises(DataError, match=f"left to critique: {NUM_PHOTOS} are critiqued"):
        suggest(folder, capsys)
    args = Namespace(folder=folder, advisor="ansel", list=None)
    assert find_critiqued(args, load_params(Path("params.yaml"))) == paths
    monkeypatch.setattr("mondrian.cli.suggest._SAMPLE", folder)
    other = Namespace(folder=folder.parent, advisor="ansel", list=None)
    assert find_critiqued(other, load_params(Path("params.yaml"))) == []  # of the sample
    assert find_critiqued(args, load_params(Path("params.yaml"))) == paths


def test_a_folder_without_an_open_photo_is_an_error(folder: Path, capsys: Any) -> None:
    photos = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    entries = [{"photo": p, "advisor": "ansel", "critique": {"dimensions": []}} for p in photos]
    (folder / "critiques.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    with pytest.raises(DataError, match=f"left to critique: {NUM_PHOTOS} are critiqued"):
        suggest(folder, capsys)


def test_a_list_that_names_another_photo_is_an_error(folder: Path) -> None:
    only = folder / "next.txt"
    only.write_text(f"{folder}/IMG_01.jpg\n\n{folder}/gone.jpg\n")
    with pytest.raises(DataError, match="no photo of the folder: .*gone.jpg"):
        select_photos(PhotoListing([folder], folder / "none"), only)
