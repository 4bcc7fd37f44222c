import json
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.data.manifest import SECTION_NAMES, Manifest, ManifestRecord, write_manifest
from tests.data.test_split import record

COUNTS = {
    "jobs": 3,
    "finished": 3,
    "linked": 3,
    "photos": 3,
    "rejected": {},
    "suspicions": {},
    "forms": {"json": 3},
    "repairs": {},
    "found": {},
    "reviewed": {},
}


def write(path: Path, records: list[ManifestRecord]) -> Path:
    lines = [r.model_dump_json() for r in records]
    refusal = json.dumps({"job_id": "x", "reason": "no_text", "detail": "]\n[,"})
    lists = {"records": lines, "left_out": lines[:1], "rejected": [refusal]}
    write_manifest(path, "ansel", COUNTS, lists)
    return path


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = [record(i, f"p{i}") for i in range(3)]
    path = write(tmp_path / "m.json", records)
    found = Manifest(path)
    assert (found.advisor, found.counts.model_dump()) == ("ansel", COUNTS)
    assert list(found.records()) == records
    assert list(found.left_out_records()) == records[:1]
    assert [r.detail for r in found.rejected_jobs()] == ["]\n[,"]
    assert set(json.loads(path.read_text())) == {
        "advisor",
        "counts",
        *SECTION_NAMES,
    }  # JSON for others


def test_empty_lists_come_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", "ansel", COUNTS, dict.fromkeys(SECTION_NAMES, []))
    assert [*Manifest(tmp_path / "m.json").records()] == []


def test_a_manifest_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    text = write(path, [record(0, "p0")]).read_text()
    for end in range(len(text) - 2):
        path.write_text(text[:end])
        with pytest.raises(DataError, match="run link again"):
            [*Manifest(path).records(), *Manifest(path).rejected_jobs()]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"advisor": 1}', "no", '{"a": [\n]}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match="no manifest as link writes it"):
        list(Manifest(tmp_path / "m.json").records())


def test_a_manifest_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run link first"):
        Manifest(tmp_path / "m.json")
