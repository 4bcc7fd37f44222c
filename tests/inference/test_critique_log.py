"""critiques.jsonl survives a kill; the table is sorted."""

import csv
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.critique.schema import Critique
from mondrian.inference.critique_log import CritiqueLog
from mondrian.inference.photo_critiques import CritiquedPhoto
from mondrian.inference.photo_files import PhotoFile, SkippedFile
from mondrian.inference.table import write_table
from tests.critique.calibrations import make_calibration
from tests.inference.critique_records import make_record


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


def test_lines_that_do_not_validate_stay_in_a_rewritten_log(
    tmp_path: Path, critique: Critique
) -> None:
    path, record = tmp_path / "critiques.jsonl", make_record(critique)
    edited = record.to_line().replace('"score": ', '"score": 1000', 1)  # by hand
    path.write_text(f"{edited}\n{record.to_line()}\n")
    CritiqueLog(path).rewrite([record])
    assert path.read_text() == f"{record.to_line()}\n{edited}\n"


def test_scores_are_calibrated_anew_without_a_new_critique(
    tmp_path: Path, critique: Critique
) -> None:
    generated = make_record(critique.with_scores([9.0] * 7, 9.0))
    shown = generated.recalibrate(make_calibration(0.5))
    assert set(shown.critique.scores()) == {8.0}
    path = tmp_path / "critiques.jsonl"
    CritiqueLog(path).add(shown)
    (stored,) = CritiqueLog(path).records.values()
    assert stored == shown
    assert stored.recalibrate(make_calibration(0.0)).critique.overall_score == 6
    assert stored.recalibrate(None) == generated
    assert "calibration" not in generated.to_line()


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


@pytest.mark.parametrize("start", list("=+-@\t\r"))
def test_a_spreadsheet_runs_no_text_of_the_table(
    tmp_path: Path, critique: Critique, start: str
) -> None:
    text = f'{start}HYPERLINK("page")'
    written = critique.model_copy(update={"image_description": text, "key_strengths": [text]})
    photo = PhotoFile(Path(text), "a")
    photos = [CritiquedPhoto(photo, (make_record(written, "a.jpg"),))]
    write_table(tmp_path / "t.csv", photos, [SkippedFile(text, "not_a_photo", "")])
    with (tmp_path / "t.csv").open(newline="") as file:
        first, skipped = csv.DictReader(file)
    texts = first["photo"], first["image_description"], first["key_strengths"], skipped["photo"]
    assert set(texts) == {f"'{text}"}
    assert first["overall_score"] == "5.0"
