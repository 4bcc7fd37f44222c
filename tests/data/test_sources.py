import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.data.jobs import Job
from mondrian.data.sources import PCCD_SCORE_ORDER, default_photo_folder, locate_source, open_source


def read_jobs(path: Path, advisor: str = "ansel") -> list[Job]:
    with open_source(path) as source:
        return list(source.iter_finished(advisor))


def write_lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def test_a_line_contains_its_critique_in_one_of_three_ways(
    tmp_path: Path, critique: Critique
) -> None:
    value = json.loads(serialize_critique(critique))
    path = write_lines(
        tmp_path / "critiques.jsonl",
        {"photo": "a.jpg", "critique": value, "id": 7, "created_at": "2026-01-01"},
        {"image": "b.jpg", "text": serialize_critique(critique), "advisor": "okeefe, ansel"},
        {"file": "c.jpg", **value},
        {"photo": "d.jpg", "critique": value, "advisor": "okeefe"},
    )
    jobs = read_jobs(path)
    assert [job.filename for job in jobs] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [job.id for job in jobs] == ["7", "line-000002", "line-000003"]
    results = [parse_critique(job.text) for job in jobs]
    assert all(isinstance(r, ParsedCritique) and r.critique == critique for r in results)
    with open_source(path) as source:
        assert source.count_jobs().count_finished_by_advisor() == {"ansel": 3, "okeefe": 4}


single_line = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(st.lists(st.one_of(single_line, st.just("{}")), max_size=8))
def test_any_line_is_a_job(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("list") / "a.jsonl"
    path.write_text("\n".join(texts), encoding="utf-8", newline="\n")
    assert len(read_jobs(path)) == sum(bool(text.lstrip("\ufeff").strip()) for text in texts)


def test_a_line_over_the_length_limit_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 3_000_000 + "\n" + json.dumps({"photo": "a.jpg"}) + "\n")
    long, short = read_jobs(path)
    assert long.too_long_message == "line 1 has 3,000,001 characters; at most 1,000,000"
    assert (short.id, short.filename) == ("line-000002", "a.jpg")


def test_a_table_contains_its_critique_in_one_column_or_in_many(
    tmp_path: Path, critique: Critique
) -> None:
    flat = {"Photo": "b.jpg", "image_description": critique.image_description}
    for dimension in critique.dimensions:
        start = dimension.name.lower().replace(" & ", "_").replace(" ", "_")
        for key in ("score", "comment", "recommendation"):
            flat[f"{start}_{key}"] = str(getattr(dimension, key))
    flat["overall_score"] = str(critique.overall_score)
    flat["key_strengths"] = "; ".join(critique.key_strengths)
    flat["priority_improvements"] = "\n".join(critique.priority_improvements)
    flat["technical_notes"] = critique.technical_notes
    with (tmp_path / "critiques.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["critique", *flat])
        table.writeheader()
        table.writerow({"Photo": "a.jpg", "critique": serialize_critique(critique)})
        table.writerow(flat)
    for job, name in zip(read_jobs(tmp_path / "critiques.csv"), ("a.jpg", "b.jpg"), strict=True):
        result = parse_critique(job.text)
        assert isinstance(result, ParsedCritique), result
        assert (job.filename, result.critique) == (name, critique)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"name,critique\n",
            "no column photo or image or filename or file; it has 'name'",
        ),
        ("a.csv", b"", "it has no columns"),
        ("a.csv", b'photo,critique\n"a\nb",c\n\n"d', "row in line 5: .*; is it a CSV"),
        (
            "a.csv",
            b"photo,comments\n",
            "no column critique or text or .*; it has 'photo', 'comments'",
        ),
        ("a.csv", b"photo;critique\na;b\n", "columns are separated by commas"),
        (
            "a.csv",
            b"photo,composition_score,light_score\na,1,2\n",
            "no column composition_comment, ",
        ),
        ("a.csv", b"photo,critique,critique\na,b,c\n", "the column 'critique' twice"),
        ("A.CSV", b"photo;critique\na;b\n", "columns are separated by commas"),
        ("a.csv", "photo,critique\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a.csv", "photo,critique\n".encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
        ("a.jsonl", "{}\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("guru.json", b"{}", "not a PCCD list"),
        ("guru.json", b"[{}]", "not a PCCD list"),
        ("guru.json", b"[", "not JSON"),
    ],
)
def test_an_invalid_list_is_an_error_that_names_the_problem(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_jobs(tmp_path / name)


def test_a_row_is_named_after_its_first_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\nphoto,critique\na.jpg,"two\nlines"\n\nb.jpg,one\n')
    assert [job.id for job in read_jobs(path)] == ["line-000003", "line-000006"]
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"photo": "a.jpg"}\n\n{"photo": "b.jpg"}\n')
    assert [job.id for job in read_jobs(path)] == ["line-000002", "line-000004"]


def test_a_folder_without_a_list_names_its_databases(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    with pytest.raises(DataError, match=r"give the database itself: .*/jobs\.db$"):
        locate_source(tmp_path)


def test_the_seven_aspects_of_the_pccd_become_the_seven_dimensions(tmp_path: Path) -> None:
    entry = {aspect: f"On {aspect}. Try more." for aspect in PCCD_SCORE_ORDER}
    entry |= {"title": "a.jpg", "description": "A tree."}
    scores = ["5", "6", "7", "8", "9", "4", "3"]
    short = entry | {"focus": "Sharp."}
    unrated = entry | {"score": [None, *scores[1:]]}
    path = tmp_path / "guru.json"
    path.write_text(json.dumps([entry | {"score": scores}, short | {"score": scores}, unrated]))
    first, *others = read_jobs(path)
    result = parse_critique(first.text)
    assert isinstance(result, ParsedCritique)
    assert (first.id, first.filename) == ("entry-000001", "a.jpg")
    assert result.critique.scores() == (7, 8, 3, 4, 9, 6, 5)
    assert result.critique.dimensions[0].comment == "On composition."
    assert {d.recommendation for d in result.critique.dimensions} == {"Try more."}
    assert [d.name for d in result.critique.dimensions] == list(DIMENSIONS)
    assert [str(getattr(parse_critique(job.text), "reason", "")) for job in others] == [
        "dimensions_incomplete",
        "unscored",
    ]


def test_a_folder_is_resolved_to_its_list_and_photos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder without critiques.jsonl, .*; and without a"):
        locate_source(tmp_path)
    (tmp_path / "critiques.csv").touch()
    assert locate_source(tmp_path) == tmp_path / "critiques.csv"
    assert default_photo_folder(tmp_path / "critiques.csv") == tmp_path
    assert default_photo_folder(tmp_path / "guru.json") == tmp_path / "images" / "full"
    assert default_photo_folder(tmp_path / "A.JSONL") == tmp_path
    assert default_photo_folder(tmp_path / "mondrian.db") == tmp_path / "source"


def test_unusual_values_of_a_line_are_accepted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"photo": "a.jpg", "advisor": ["okeefe", "ansel"]})
    with path.open("a") as file:
        file.write('{"photo": "b.jpg", "created_at": 1' + "0" * 400 + "}\n")
        file.write('{"photo": "c.jpg", "critique": ' + "[" * 950 + "]" * 950 + "}\n")
    jobs = read_jobs(path)
    assert len(jobs) == 3
    assert [job.filename for job in jobs[:2]] == ["a.jpg", "b.jpg"]
