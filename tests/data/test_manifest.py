import json
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.data.manifest import SECTION_NAMES, Manifest, ManifestRecord, write_manifest
from tests.data.manifest_records import COUNTS, record


def write(path: Path, records: list[ManifestRecord]) -> Path:
    lines = [r.model_dump_json() for r in records]
    rejected = json.dumps({"job_id": "x", "reason": "no_text", "detail": "]\n[,"})
    sections = {"records": lines, "left_out": lines[:1], "rejected": [rejected]}
    write_manifest(path, "ansel", COUNTS, sections)
    return path


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = [record(i, f"p{i}") for i in range(3)]
    path = write(tmp_path / "m.json", records)
    manifest = Manifest(path)
    assert (manifest.advisor, manifest.counts.model_dump()) == ("ansel", COUNTS)
    assert list(manifest.records()) == records
    assert list(manifest.left_out_records()) == records[:1]
    assert [r.detail for r in manifest.rejected_jobs()] == ["]\n[,"]
    assert set(json.loads(path.read_text())) == {
        "advisor",
        "counts",
        *SECTION_NAMES,
    }  # JSON for others


def test_empty_sections_are_read(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", "ansel", COUNTS, dict.fromkeys(SECTION_NAMES, []))
    assert [*Manifest(tmp_path / "m.json").records()] == []


def test_a_manifest_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    text = write(path, [record(0, "p0")]).read_text()
    for end in range(len(text) - 2):
        path.write_text(text[:end])
        with pytest.raises(DataError, match="run link again"):
            [*Manifest(path).records(), *Manifest(path).rejected_jobs()]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"advisor": 1}', "no", '{"a": [\n]}'])
def test_a_file_that_is_not_a_manifest_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match="is not a manifest of link"):
        list(Manifest(tmp_path / "m.json").records())


def test_an_error_about_a_missing_manifest_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run link first"):
        Manifest(tmp_path / "m.json")
