import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.data.lists import json_list
from mondrian.data.lists.json_list import PCCD_SCORE_ORDER
from tests.data.lists.list_files import make_row, read_critique, read_jobs, write_lines


def reason(job: Any) -> str:
    result = job.rejection or parse_critique(job.text)
    return str(getattr(result, "reason", ""))


def test_a_line_contains_its_critique_in_one_of_three_ways(
    tmp_path: Path, critique: Critique
) -> None:
    value = json.loads(serialize_critique(critique))
    entries = [
        {"photo": "a.jpg", "critique": value, "id": 7, "created_at": "2026-01-01"},
        {"image": "b.jpg", "text": serialize_critique(critique), "advisor": "okeefe, ansel"},
        {"file": "c.jpg", **value},
        {"photo": "d.jpg", "critique": value, "advisor": "okeefe"},
    ]
    path = write_lines(tmp_path / "critiques.jsonl", *entries)
    (tmp_path / "critiques.json").write_text(json.dumps(entries, indent=1))
    for name, default in (("critiques.jsonl", "line"), ("critiques.json", "entry")):
        jobs = read_jobs(path.with_name(name))
        assert [job.filename for job in jobs] == ["a.jpg", "b.jpg", "c.jpg"]
        assert [job.id for job in jobs] == ["7", f"{default}-000002", f"{default}-000003"]
        assert [read_critique(job) for job in jobs] == [critique] * 3


def test_rows_of_a_spreadsheet_as_json_are_read(tmp_path: Path, critique: Critique) -> None:
    row: dict[str, Any] = make_row("a.jpg", critique)
    row["Lighting Score"] = critique.dimensions[1].score
    (job,) = read_jobs(write_lines(tmp_path / "a.jsonl", row))
    assert (job.filename, read_critique(job)) == ("a.jpg", critique)


single_line = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0"))


@given(st.lists(st.one_of(single_line, st.just('{"a": 1}')), max_size=8))
def test_any_line_is_a_job(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("list") / "a.jsonl"
    content = "\n".join(['{"photo": "a.jpg"}', *texts])
    path.write_text(content, encoding="utf-8", newline="\n")
    expected = 1 + sum(bool(text.strip("\ufeff \t\r\n")) for text in texts)
    assert len(read_jobs(path)) == expected


def test_a_line_over_the_length_limit_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 3_000_000 + "\n" + json.dumps({"photo": "a.jpg"}) + "\n")
    long, short = read_jobs(path)
    assert long.rejection is not None
    assert long.rejection.detail == "line 1 has 3,000,001 characters; at most 1,000,000"
    assert (reason(long), short.id, short.filename) == ("too_long", "line-000002", "a.jpg")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"photo": "a.jpg", "photo": "b.jpg", "critique": CRITIQUE}', "malformed_json"),
        ('{"photo": "a.jpg", "critique": CRITIQUE, "critique" : {}}', "malformed_json"),
        ('{"photo": "a.jpg", "critique": {"overall_score": 9, REST}', "malformed_json"),
        ('{"photo": "a.jpg", "": 1, "" : 2, "critique": CRITIQUE}', "malformed_json"),
        ('{"photo": "a.jpg", "l": [{"k": [], "k": [0]}], "text": "x"}', "malformed_json"),
        ('{"photo": "a.jpg", "photo": "a.jpg", "critique": CRITIQUE}', ""),
        ('{"photo": "a.jpg", "critique": CRITIQUE', "truncated"),
        ('{"photo": "a.jpg", "critique": CRITIQUE, "note": "cut o', "truncated"),
        ('{"photo": "a.jpg" "critique": CRITIQUE}', "malformed_json"),
        ('{"photo": "a.jpg", "critique": CRITIQUE} {"photo": "b.jpg"}', "malformed_json"),
        ("{'photo': 'a.jpg', 'critique': 'x'}", "malformed_json"),
        ('{"photo": "a.jpg", "critique": CRITIQUE, "n": ' + "9" * 5000 + "}", "malformed_json"),
        ('{"photo": "a.jpg", "critique": ' + "[" * 99_999 + "}", "malformed_json"),
        ('{"photo": "a.jpg", "critique": CRITIQUE},', ""),
        ("CRITIQUE", ""),
        ("null", "no_text"),
    ],
)
def test_a_damaged_line_has_its_reason(
    tmp_path: Path, critique: Critique, line: str, expected: str
) -> None:
    text = serialize_critique(critique)
    line = line.replace("CRITIQUE", text).replace("REST", text[1:])
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"photo": "z.jpg", "critique": {text}}}\n{line}\n')
    first, second = read_jobs(path)
    assert read_critique(first) == critique
    assert reason(second) == expected


def test_a_damaged_row_counts_for_its_advisor(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"photo": "a.jpg", "photo": "b.jpg", "advisor": "okeefe"}\n')
    assert (len(read_jobs(path, "okeefe")), len(read_jobs(path, "ansel"))) == (1, 0)


def test_an_unreadable_character_in_a_critique_is_not_utf8(
    tmp_path: Path, critique: Critique
) -> None:
    line = json.dumps({"photo": "é.jpg", "critique": json.loads(serialize_critique(critique))})
    line = line.replace("\\u00e9", "é")
    raw = line.encode() + b"\n" + line.encode().replace(b"the", b"th\xe9", 1) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(raw)
    first, second = read_jobs(tmp_path / "a.jsonl")
    assert (read_critique(first), first.notes) == (critique, ())
    assert reason(second) == "not_utf8"


def test_a_line_is_named_after_its_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"photo": "a.jpg"}\n\n{"photo": "b.jpg"}\n')
    assert [job.id for job in read_jobs(path)] == ["line-000002", "line-000004"]


def test_entries_of_a_list_are_separated_wherever_a_chunk_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critique: Critique
) -> None:
    entries = [
        {"photo": f"{i}.jpg", "n": -1.5e-7, "ok": True, "none": None, "é\n\\": "\u20ac\\u"}
        for i in range(5)
    ]
    path = tmp_path / "a.json"
    for indent in (None, 2):
        path.write_text(json.dumps(entries, indent=indent))
        for size in (*range(17, 60), 1000):
            monkeypatch.setattr(json_list, "_CHUNK", size)
            assert [job.filename for job in read_jobs(path)] == [f"{i}.jpg" for i in range(5)]


def test_an_entry_of_a_list_that_is_no_critique_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"photo": "a.jpg", "photo": "b.jpg"}, 7, "x", {"photo": "c.jpg"}]')
    jobs = read_jobs(path)
    assert [reason(job) for job in jobs[:3]] == ["malformed_json", "other_schema", "other_schema"]
    assert jobs[3].filename == "c.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"photo": "a.jpg"}, {"photo": "b', "not JSON: entry 2: it is cut off|Unterminated"),
        ('[{"photo": "a.jpg"}, {"photo" "b"}]', "not JSON: entry 2: Expecting ':' delimiter"),
        ('[{"photo": "a.jpg"} {"photo": "b"}]', "not JSON: entry 1: expected a comma"),
        ('[{"photo": "a.jpg"}', "not JSON: entry 1: it is cut off"),
        ('[{"photo": "a.jpg"}] []', "not JSON: entry 1: text after the list"),
        ("[1, 2", "not JSON: entry 2: it is cut off"),
        ("[" * 100_000, "not JSON: entry 1: .*recursion"),
        ('[{"n": ' + "9" * 5000 + "}]", "not JSON: entry 1: Exceeds the limit"),
        ("nothing", "is not JSON: it begins with 'nothing'"),
        ('{"advisor": "ansel",\n"records": []}', "it is one JSON object; write its entries"),
    ],
)
def test_a_json_file_that_is_damaged_is_an_error(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_jobs(tmp_path / "a.json")


def make_pccd_entry(**changes: Any) -> dict[str, Any]:
    entry = {aspect: f"On {aspect}. Try more." for aspect in PCCD_SCORE_ORDER}
    scores = ["5", "6", "7", "8", "9", "4", "3"]
    return entry | {"title": "a.jpg", "description": "A tree.", "score": scores} | changes


@pytest.mark.parametrize("name", ["guru.json", "pccd.json"])
def test_the_seven_aspects_of_the_pccd_become_the_seven_dimensions(
    tmp_path: Path, name: str
) -> None:
    unrated = make_pccd_entry(score=[None, "6", "7", "8", "9", "4", "3"])
    entries = [make_pccd_entry(), make_pccd_entry(focus="Sharp."), unrated]
    (tmp_path / name).write_text(json.dumps(entries))
    first, *others = read_jobs(tmp_path / name)
    result = parse_critique(first.text)
    assert isinstance(result, ParsedCritique)
    assert (first.id, first.filename) == ("entry-000001", "a.jpg")
    assert result.critique.scores() == (7, 8, 3, 4, 9, 6, 5)
    assert result.critique.dimensions[0].comment == "On composition."
    assert {d.recommendation for d in result.critique.dimensions} == {"Try more."}
    assert [d.name for d in result.critique.dimensions] == list(DIMENSIONS)
    assert [reason(job) for job in others] == ["dimensions_incomplete", "unscored"]


@pytest.mark.parametrize("content", ["[{}]", "[[]]", '[{"title": "a.jpg"}]'])
def test_a_pccd_list_without_its_aspects_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "guru.json").write_text(content)
    with pytest.raises(DataError, match="not a PCCD list: entry 1 needs general_impression, "):
        read_jobs(tmp_path / "guru.json")


def test_unusual_values_of_a_line_are_accepted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"photo": "a.jpg", "advisor": ["okeefe", "ansel"]})
    with path.open("a") as file:
        file.write('{"photo": "b.jpg", "created_at": 1' + "0" * 400 + "}\n")
        file.write('{"photo": "c.jpg", "critique": ' + "[" * 950 + "]" * 950 + "}\n")
    jobs = read_jobs(path)
    assert len(jobs) == 3
    assert [job.filename for job in jobs[:2]] == ["a.jpg", "b.jpg"]
