"""critiques.jsonl survives a kill; the table is sorted."""

import csv
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.critique.schema import Critique
from mondrian.inference.critique_log import CritiqueLog, CritiqueRecord
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import PhotoFile, SkippedFile
from mondrian.inference.table import write_table


def make_record(
    critique: Critique, photo: str = "a.jpg", overall: float = 5.0, adapter: str = "one"
) -> CritiqueRecord:
    return CritiqueRecord(
        photo=photo,
        sha256=photo,
        advisor="ansel",
        arm="fine_tuned" if adapter else "base",
        base="b",
        adapter=adapter,
        settings=adapter,
        critique=critique.model_copy(update={"overall_score": overall}),
    )


def test_records_are_read_back_and_a_cut_line_is_ignored(
    tmp_path: Path, critique: Critique
) -> None:
    path, record = tmp_path / "critiques.jsonl", make_record(critique)
    CritiqueLog(path).add(record)
    with path.open("a") as file:
        file.write(record.to_line()[:90])  # killed while writing
    log = CritiqueLog(path)
    assert list(log.records.values()) == [record]
    other = make_record(critique, "b.jpg")
    log.add(other)
    assert list(CritiqueLog(path).records.values()) == [record, other]


def test_a_rewritten_log_has_the_current_records_first_and_keeps_others(
    tmp_path: Path, critique: Critique
) -> None:
    path = tmp_path / "critiques.jsonl"
    log, names = CritiqueLog(path), ("c.jpg", "a.jpg", "b.jpg")
    for name in names:
        log.add(make_record(critique, name))
    log.rewrite([make_record(critique, name) for name in ("a.jpg", "b.jpg")])
    assert [r.photo for r in CritiqueLog(path).records.values()] == ["a.jpg", "b.jpg", "c.jpg"]


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "critiques.jsonl"
    path.write_text('{"mine": 1}\n{"mine": 2}\n')
    with pytest.raises(DataError, match="--output"):
        CritiqueLog(path)


def test_the_table_is_sorted_by_the_overall_score_and_ends_with_skipped_files(
    tmp_path: Path, critique: Critique
) -> None:
    photos = [
        CritiquedPhoto(
            PhotoFile(Path(name), name),
            (make_record(critique, name, score), make_record(critique, name, 3.0, adapter="")),
        )
        for name, score in (("b, c.jpg", 6.5), ("d.jpg", 9.0), ("a.jpg", 6.5))
    ]
    skipped = [SkippedFile("x.txt", "not_a_photo", "a file"), SkippedFile("e.jpg", "image_raw", "")]
    write_table(tmp_path / "t.csv", photos, skipped)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == ["d.jpg", "a.jpg", "b, c.jpg", "e.jpg", "x.txt"]
    assert [row["overall_score"] for row in rows] == ["9.0", "6.5", "6.5", "", ""]
    assert rows[0]["base overall_score"] == "3.0"
    assert rows[0]["Composition"] == str(critique.dimensions[0].score)
    assert rows[0]["image_description"] == critique.image_description
    assert rows[4]["skipped"] == "not_a_photo: a file"
