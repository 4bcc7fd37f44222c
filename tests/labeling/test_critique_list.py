import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.sources import open_source
from mondrian.labeling.critique_list import CritiqueList

FOREIGN = (  # lines that stay as they are
    '{"photo": "b.jpg", "critique": {"dimensions": []}, "advisor": "okeefe"}',
    '{"photo": "c.jpg", "text": "prose"}',
    "not JSON at all",
    "",
    '{"photo": "d.jpg", "critique": {"dimensions": [',
)


@pytest.fixture
def content(critique: Critique) -> dict[str, Any]:
    stored = json.loads(serialize_critique(critique))
    return {"id": "ansel-1", "photo": "a.jpg", "advisor": "ansel", "critique": stored}


def test_an_entry_is_replaced_and_other_lines_stay(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "critiques.jsonl"
    path.write_text("\n".join(FOREIGN))
    critiques = CritiqueList(path, "ansel")
    critiques.write("a.jpg", content)
    critiques.write("a.jpg", content | {"id": "2"})
    assert path.read_text().split("\n") == [*FOREIGN, json.dumps(content | {"id": "2"}), ""]
    assert set(critiques.read()) == {"a.jpg", "c.jpg"}
    assert critiques.read()["c.jpg"].content is None  # of another form


def test_link_reads_what_was_written(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "critiques.jsonl"
    CritiqueList(path, "ansel").write("a.jpg", content)
    with open_source(path) as source:
        (job,) = source.iter_finished("ansel")
        assert not list(source.iter_finished("okeefe"))
    assert (job.filename, json.loads(job.text)) == ("a.jpg", content["critique"])


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["a.jpg", "b/ä.jpg", "c d.jpg"]), min_size=1, max_size=8))
def test_each_photo_has_one_line_with_its_latest_critique(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("list") / "critiques.jsonl"
    critiques = CritiqueList(path, "ansel")
    for number, name in enumerate(names):
        critique = {"dimensions": [], "technical_notes": str(number)}
        critiques.write(name, {"photo": name, "critique": critique})
    latest = {name: str(number) for number, name in enumerate(names)}
    entries = critiques.read()
    assert {name: entry.critique["technical_notes"] for name, entry in entries.items()} == latest
    assert path.read_text().count("\n") == len(latest)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("critiques.csv", b"photo,critique\na.jpg,text\n", "list of another form .table.; give an"),
        ("critiques.json", b'[{"photo": "a.jpg"}]', "another form .JSON list."),
        ("jobs.db", b"SQLite format 3\0" + bytes(100), "is a database; give another --list"),
        ("a.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "it is a photo"),
        ("critiques.jsonl", '{"photo": "é"}\n'.encode("latin-1"), "is not UTF-8"),
    ],
)
def test_another_file_is_refused_and_unchanged(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        CritiqueList(path, "ansel")
    assert path.read_bytes() == content


def test_half_a_surrogate_pair_of_another_program_stays_in_its_line(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "critiques.jsonl"
    path.write_text(json.dumps(content | {"id": "\ud83d"}) + "\n")
    critiques = CritiqueList(path, "ansel")
    entry = critiques.read()["a.jpg"].content
    assert entry is not None
    critiques.write("a.jpg", entry)
    assert json.loads(path.read_text()) == content | {"id": "\ud83d"}


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; give a file"):
        CritiqueList(tmp_path, "ansel")
