import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.errors import DataError
from mondrian.manifest import LISTS, Manifest, Record, write_manifest
from tests.test_split import record


def write(path: Path, records: list[Record]) -> Path:
    lines = [r.model_dump_json() for r in records]
    refusal = json.dumps({"job_id": "x", "reason": "no_text", "detail": "]\n[,"})
    lists = {"records": lines, "left_out": lines[:1], "rejected": [refusal]}
    write_manifest(path, "ansel", {"finished": 3}, lists)
    return path


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = [record(i, f"p{i}") for i in range(3)]
    path = write(tmp_path / "m.json", records)
    found = Manifest(path)
    assert (found.advisor, found.counts) == ("ansel", {"finished": 3})
    assert list(found.records()) == records
    assert list(found.left_out()) == records[:1]
    assert [r.detail for r in found.rejected()] == ["]\n[,"]
    assert set(json.loads(path.read_text())) == {"advisor", "counts", *LISTS}  # JSON for others


def test_empty_lists_come_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", "ansel", {}, dict.fromkeys(LISTS, []))
    assert [*Manifest(tmp_path / "m.json").records()] == []


@given(st.integers(0, 6000))
def test_a_manifest_that_is_cut_off_is_refused(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.json"
    text = write(path, [record(i, f"p{i}") for i in range(3)]).read_text()
    path.write_text(text[: min(end, len(text) - 3)])
    with pytest.raises(DataError, match="run link again"):
        [*Manifest(path).records(), *Manifest(path).rejected()]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"advisor": 1}', "no", '{"a": [\n]}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match="no manifest as link writes it"):
        list(Manifest(tmp_path / "m.json").records())


def test_a_manifest_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run link first"):
        Manifest(tmp_path / "m.json")
