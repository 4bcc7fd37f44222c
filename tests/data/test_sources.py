import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.sources import default_photo_folder, locate_source, open_source
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.link_runs import run_link
from tests.data.lists.list_files import (
    format_table,
    make_chat_entries,
    make_row,
    read_jobs,
    write_lines,
)


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["critiques.csv"], "critiques.csv"),
        (["Critiques.JSONL", "notes.txt", "photo.jpg"], "Critiques.JSONL"),
        (["critiques.tsv", "mondrian.db"], "critiques.tsv"),
        (["guru.json", "other.json"], "guru.json"),
        (["my list.ndjson"], "my list.ndjson"),
        (["rows.json", "._rows.json", ".hidden.csv", "README.txt"], "rows.json"),
        (["train.json", "dataset_info.json"], "train.json"),  # LLaMA-Factory
    ],
)
def test_a_folder_is_resolved_to_its_list(tmp_path: Path, names: list[str], expected: str) -> None:
    touch(tmp_path, *names)
    assert locate_source(tmp_path) == tmp_path / expected


def test_the_photos_of_a_list_are_in_its_order_so_that_messages_do_not_change(
    tmp_path: Path,
) -> None:
    names = [f"{i}.jpg" for i in range(50)]
    rows = [{"photo": name, "critique": "text"} for name in [*names, *names]]
    write_lines(tmp_path / "critiques.jsonl", *rows)
    with open_source(tmp_path / "critiques.jsonl") as source:
        assert list(source.iter_filenames()) == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"folder without critiques.jsonl, critiques.csv; and without a database$"),
        (["photo.jpg", "notes.txt"], r"folder without critiques.jsonl, critiques.csv;"),
        (["Thumbs.db"], r"critiques.csv; and without a database$"),
        (["jobs.db"], r"give the database itself: .*/jobs\.db$"),
        (["critiques.csv", "critiques.jsonl"], "several lists: critiques.csv, critiques.jsonl; gi"),
        (["guru.json", "critiques.json"], "several lists: critiques.json, guru.json; give one"),
        (["a.csv", "b.json"], "several lists: a.csv, b.json; give one of them, not the folder"),
        (["a.csv", "mondrian.db"], "several lists: a.csv, mondrian.db; give one of them"),
    ],
)
def test_a_folder_without_one_list_is_an_error(
    tmp_path: Path, names: list[str], message: str
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        locate_source(tmp_path)


def test_photos_are_next_to_a_list_and_in_source_next_to_a_database(tmp_path: Path) -> None:
    for name in ("critiques.csv", "A.JSONL", "rows.ndjson", "a.tsv", "a.json"):
        assert default_photo_folder(tmp_path / name) == tmp_path
    assert default_photo_folder(tmp_path / "guru.json") == tmp_path / "images" / "full"
    assert default_photo_folder(tmp_path / "mondrian.db") == tmp_path / "source"
    (tmp_path / "list").write_text("photo,text\na.jpg,x\n")
    assert default_photo_folder(tmp_path / "list") == tmp_path


def test_rows_with_one_id_are_told_apart_by_their_line(tmp_path: Path) -> None:
    ids = [7, "7", None, "line-000003", "7 (line 2)", "\ud800", "\udc00", True, [1], " 7 ", "", 0]
    entries = [{"photo": f"{i}.jpg", "id": job_id} for i, job_id in enumerate(ids)]
    write_lines(tmp_path / "a.jsonl", *entries)
    jobs = read_jobs(tmp_path / "a.jsonl")
    assert [job.id for job in jobs] == [
        "7",
        "7 (line 2)",
        "line-000003",
        "line-000003 (line 4)",
        "7 (line 2) (line 5)",
        "?",
        "? (line 7)",
        "line-000008",
        "line-000009",
        "7 (line 10)",
        "line-000011",
        "0",
    ]
    assert jobs == read_jobs(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps(entries[:2]))
    assert [job.id for job in read_jobs(tmp_path / "a.json")] == ["7", "7 (entry 2)"]
    (tmp_path / "a.csv").write_text('id,photo,text\n7,"a\n.jpg",x\n7,b.jpg,y\n')
    assert [job.id for job in read_jobs(tmp_path / "a.csv")] == ["7", "7 (line 4)"]


def test_an_id_is_the_same_for_each_advisor(tmp_path: Path) -> None:
    entries = [{"photo": "a.jpg", "id": 7, "advisor": name} for name in ("okeefe", "ansel")]
    path = write_lines(tmp_path / "a.jsonl", *entries)
    assert [job.id for job in read_jobs(path, "ansel")] == ["7 (line 2)"]
    assert [job.id for job in read_jobs(path, "okeefe")] == ["7"]


@given(st.lists(st.sampled_from(["7", "7 (line 2)", "line-000002", "\ud800", ""]), max_size=9))
def test_no_id_is_there_twice(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    entries = [{"photo": "a.jpg", "id": job_id} for job_id in ["7", *ids]]
    path = write_lines(tmp_path_factory.mktemp("list") / "a.jsonl", *entries)
    assert len({job.id for job in read_jobs(path)}) == len(entries)


def write_photos(folder: Path, count: int) -> list[Critique]:
    """Write different photos, and return a critique of each."""
    for i in range(count):
        Image.effect_noise((320, 256), 20 + i).resize((320, 256)).save(folder / f"{i}.jpg")
    return [write_critique("ansel", draw_scene(6, i)) for i in range(count)]


def test_a_critique_in_each_layout_is_linked_exactly(tmp_path: Path, params: Params) -> None:
    layouts = list(make_chat_entries("", write_critique("ansel", draw_scene(6, 0))))
    critiques = write_photos(tmp_path, len(layouts) + 3)
    expected = {f"{i}.jpg": serialize_critique(critique) for i, critique in enumerate(critiques)}
    entries = [
        make_chat_entries(f"{i}.jpg", critiques[i])[layout] for i, layout in enumerate(layouts)
    ]
    entries += [
        {"photo": f"{i}.jpg", "critique": json.loads(expected[f"{i}.jpg"])}
        for i in range(len(layouts), len(critiques))
    ]
    write_lines(tmp_path / "a.jsonl", *entries)
    (tmp_path / "a.json").write_text(json.dumps(entries, indent=2))
    rows = [make_row(f"{i}.jpg", critique) for i, critique in enumerate(critiques)]
    (tmp_path / "a.csv").write_bytes(format_table(rows, ";").encode("utf-16"))
    for name, notes in (("a.jsonl", ()), ("a.json", ()), ("a.csv", ("list read as UTF-16",))):
        linked = run_link(tmp_path / name, params, source=tmp_path)
        records = linked.records + linked.left_out
        assert {
            r.photo.path.rsplit("/", 1)[-1]: serialize_critique(r.critique) for r in records
        } == (expected)
        assert {r.notes for r in records} == {notes}


def test_prepared_rows_are_linked_with_their_images(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("data/prepared/ansel")
    (folder / "images").mkdir(parents=True)
    critiques = [serialize_critique(critique) for critique in write_photos(folder / "images", 2)]
    rows = [
        {"messages": build_row_messages("A critic.", text), "images": [f"{folder}/images/{i}.jpg"]}
        for i, text in enumerate(critiques)
    ]
    path = folder / "training_data_ansel_train.json"
    path.write_text(json.dumps([row | {"photo": "0" * 64} for row in rows]))
    linked = run_link(path, params, source=default_photo_folder(path))
    records = {r.photo.path: serialize_critique(r.critique) for r in linked.records}
    assert records == {f"{folder}/images/{i}.jpg": text for i, text in enumerate(critiques)}


def test_the_manifest_has_each_job_once_with_its_reason(
    tmp_path: Path, params: Params, critique: Critique
) -> None:
    write_photos(tmp_path, 1)
    good = make_chat_entries("0.jpg", critique)["TRL"] | {"id": 7}
    entries = [
        good,
        good | {"images": ["a.jpg", "b.jpg"]},
        good | {"images": ["https://a.org/0.jpg"]},
        {"id": 7, "photo": "0.jpg"},
    ]
    path = write_lines(tmp_path / "a.jsonl", *entries)
    with path.open("a") as file:
        file.write('{"id": 7, "photo": "0.jpg", "photo": "1.jpg", "text": "x"}\n')
    linked = run_link(path, params, source=tmp_path)
    assert [record.job_id for record in linked.records] == ["7"]
    assert linked.reasons == {
        "7 (line 2)": "image_ambiguous",
        "7 (line 3)": "image_missing",
        "7 (line 4)": "no_text",
        "line-000005": "malformed_json",
    }


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv does not exist"):
        open_source(tmp_path / "a.csv")
