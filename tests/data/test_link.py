import json
import sqlite3
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.link import format_link_summary
from mondrian.sample.application import CLEAN_PHOTOS
from mondrian.sample.corruptions import (
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    build_example_prompt,
    render_html_cards,
    replace_scores,
)
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.link_runs import Linked, MakeDb, run_link


@pytest.mark.slow
@pytest.mark.parametrize("advisor", list(CLEAN_PHOTOS))
def test_the_outcome_of_every_sample_job_is_as_expected(
    application: Path, params: Params, advisor: str
) -> None:
    expected = json.loads((application / "truth.json").read_text())["jobs"][advisor]
    linked = run_link(application / "mondrian.db", params, advisor)
    outcomes = linked.reasons | {r.job_id: "linked" for r in linked.records}
    assert outcomes == expected
    assert len(linked.records) > 100
    assert linked.counts["finished"] == len(expected)


def test_every_finished_job_is_counted_once(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    text = serialize_critique(critique)
    path = make_db(
        {"filename": "0.jpg", "analysis_markdown": text},
        {"filename": "1.jpg", "analysis_markdown": ""},
        {"filename": "missing.jpg", "analysis_markdown": text},
        {"filename": "2.jpg", "analysis_markdown": text, "status": "queued"},
        {"filename": "3.jpg", "analysis_markdown": text, "advisor": "okeefe"},
    )
    linked = run_link(path, params)
    assert [linked.counts[key] for key in ("jobs", "finished", "linked")] == [4, 3, 1]
    assert linked.reasons == {"job-1": "no_text", "job-2": "image_missing"}
    assert linked.rejected_photos == ["1.jpg", "missing.jpg"]
    assert "3 finished jobs → 1 pairs from 1 photos; 2 rejected" in format_link_summary(
        "ansel", linked.counts
    )


@pytest.mark.parametrize(
    "stored",
    [
        "0.jpg",
        "source/0.jpg",
        "/Users/me/0.jpg",
        "C:\\photos\\0.jpg",
        "../../source/0.jpg",
        "uploads/0b9b6e0e-5f2e-4bd4-8f39-6a1d3f0c9a11_0.jpg",
    ],
)
def test_a_photo_is_matched_by_its_name_alone(
    make_db: MakeDb, source: Path, critique: Critique, params: Params, stored: str
) -> None:
    path = make_db({"filename": stored, "analysis_markdown": serialize_critique(critique)})
    assert Path(run_link(path, params).records[0].photo.path) == source / "0.jpg"


def link_photos(make_db: MakeDb, params: Params, *rows: dict[str, str], **rules: Any) -> Linked:
    """Link rows with a good critique each."""
    texts = (serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(99))
    return run_link(
        make_db(*({"analysis_markdown": next(texts)} | row for row in rows)), params, **rules
    )


def test_paths_of_different_folders_that_lead_to_one_file_are_both_refused(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    linked = link_photos(
        make_db,
        params,
        {"filename": "2023/0.jpg"},
        {"filename": "2024/0.jpg"},
        {"filename": "2023/1.jpg"},
        {"filename": "D:\\2024\\1.jpg", "advisor": "okeefe"},
        {"filename": "2024/2.jpg"},
        {"filename": "2.jpg"},
        {"filename": "/Users/me/3.jpg"},
        {"filename": "/Users/you/3.jpg", "status": "queued"},
    )
    ambiguous = dict.fromkeys(("job-0", "job-1", "job-2", "job-4"), "image_ambiguous")
    assert linked.reasons == ambiguous
    kinds = {record.job_id: record.photo.match_kind for record in linked.records}
    assert kinds == {"job-5": "as_stored", "job-6": "name_only"}
    assert linked.left_out == []


def test_the_message_about_an_ambiguous_photo_names_the_other_path(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    rows = ({"filename": "2023/0.jpg"}, {"filename": "2024/0.jpg"})
    with pytest.raises(DataError) as error:
        link_photos(make_db, params, *rows)
    assert "(image_ambiguous 2)" in str(error.value)
    assert f"'2024/0.jpg' of another row leads to {source / '0.jpg'} too" in str(error.value)


def test_photos_of_one_name_in_two_folders_are_each_linked_to_their_own(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    for folder, photo in (("2023", "0.jpg"), ("2024", "1.jpg")):
        (source / folder).mkdir()
        (source / photo).rename(source / folder / "IMG_0001.JPG")
    names = ("2023/IMG_0001.JPG", "C:\\Users\\x\\source\\2024\\IMG_0001.JPG", "2025/IMG_0001.JPG")
    linked = link_photos(make_db, params, *({"filename": name} for name in names))
    photos = {r.job_id: (r.photo.path, r.photo.match_kind) for r in linked.records}
    assert photos == {
        "job-0": (str(source / "2023/IMG_0001.JPG"), "as_stored"),
        "job-1": (str(source / "2024/IMG_0001.JPG"), "path_ending"),
    }
    assert linked.reasons == {"job-2": "image_ambiguous"}
    assert linked.counts["match_kinds"] == {"as_stored": 1, "path_ending": 1}


def test_nothing_outside_the_source_folder_is_read(
    make_db: MakeDb, source: Path, critique: Critique, params: Params, tmp_path: Path
) -> None:
    (source / "0.jpg").rename(tmp_path / "secret.jpg")
    (source / "link.jpg").symlink_to("../secret.jpg")
    text = serialize_critique(critique)
    names = [
        "../secret.jpg",
        "a" * 300,
        "\x00",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "",
        "..",
        "a\nb.jpg",
        "1.jpg",
    ]
    path = make_db(*({"filename": name, "analysis_markdown": text} for name in names))
    linked = run_link(path, params)
    assert [r.photo.path for r in linked.records] == [str(source / "1.jpg")]
    assert linked.reasons["job-4"] == "image_outside_source"


def test_template_scores_are_left_out_unless_the_setting_is_keep(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    text = serialize_critique(replace_scores(critique, EXAMPLE_SCORES, EXAMPLE_OVERALL))
    row = {"filename": "0.jpg", "analysis_markdown": text, "prompt": build_example_prompt()}
    path = make_db(row)
    with pytest.raises(DataError, match="link.template_scores: keep"):
        run_link(path, params)
    record = run_link(path, params, template_scores="keep").records[0]
    assert record.suspicions == ("template_scores",)


def test_one_text_for_different_photos_is_left_out(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    shared, own = (
        serialize_critique(critique),
        serialize_critique(write_critique("ansel", draw_scene(5, 2))),
    )
    texts = {"0.jpg": shared, "1.jpg": shared, "2.jpg": own}
    path = make_db(*({"filename": n, "analysis_markdown": t} for n, t in texts.items()))
    assert run_link(path, params).reasons == {"job-0": "shared_text", "job-1": "shared_text"}
    assert len(run_link(path, params, shared_text="keep").records) == 3


def test_a_copy_with_the_same_text_is_a_duplicate(
    make_db: MakeDb, source: Path, critique: Critique, params: Params, photos: list[Image.Image]
) -> None:
    photos[0].save(source / "again.jpg", quality=50)
    text = serialize_critique(critique)
    path = make_db(*({"filename": n, "analysis_markdown": text} for n in ("0.jpg", "again.jpg")))
    assert run_link(path, params).reasons == {"job-1": "duplicate"}


def test_many_unlike_critiques_of_one_photo_are_left_out(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    texts = [serialize_critique(write_critique("ansel", draw_scene(5, i))) for i in range(5)]
    rows = [{"filename": "0.jpg", "analysis_markdown": text} for text in texts[:4]]
    path = make_db(*rows, {"filename": "1.jpg", "analysis_markdown": texts[4]})
    assert set(run_link(path, params).reasons.values()) == {"wrong_picture"}


def test_an_error_about_an_unknown_advisor_names_the_others(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    path = make_db({"advisor": "okeefe, weston"})
    with pytest.raises(
        DataError, match="no finished job of advisor 'ansel'; finished jobs of others: 'okeefe' 1"
    ):
        run_link(path, params)


def test_entries_with_other_keys_are_an_error_that_names_them(
    source: Path, tmp_path: Path, critique: Critique, params: Params
) -> None:
    path = tmp_path / "critiques.jsonl"
    text = serialize_critique(critique)
    entries = [{"photo": "0.jpg", "kritik": text}, {"foto": "0.jpg", "text": text}]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(DataError) as error:
        run_link(path, params)
    assert "no_text: job line-000001: no critique or text or " in str(error.value)
    assert "among its keys: photo, kritik" in str(error.value)
    assert "image_missing: job line-000002: no photo or image or " in str(error.value)


def test_an_error_without_a_finished_job_names_the_statuses(
    make_db: MakeDb, source: Path, params: Params
) -> None:
    path = make_db(*({"status": status} for status in ("finished", "Finished ", None)))
    expected = "ansel': finished is done or completed, its jobs are 'finished' 2, '' 1$"
    with pytest.raises(DataError, match=expected):
        run_link(path, params)


def test_an_empty_answer_does_not_hide_another_text(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    text = serialize_critique(critique)
    answers = [{"ansel": {"response": ""}}, {"ansel": "  "}, {"response": " "}, {"ansel": None}]
    rows = [
        {
            "filename": f"{i}.jpg",
            "llm_outputs": json.dumps(a),
            "analysis_markdown": serialize_critique(write_critique("ansel", draw_scene(6, i))),
        }
        for i, a in enumerate(answers)
    ]
    rows.append({"filename": "4.jpg", "llm_outputs": json.dumps({"ansel": {"response": text}})})
    assert len(run_link(make_db(*rows), params).records) == 5


def test_the_page_of_another_advisor_is_rejected(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    page = render_html_cards(critique)
    pages = [page.replace('"sample"', f'"{name}"') for name in ("okeefe", "ansel", "Ansel Adams")]
    rows = [
        {"filename": f"{i}.jpg", "analysis_markdown": p.replace("Leave", f"Leave {i}")}
        for i, p in enumerate(pages)
    ]
    linked = run_link(make_db(*rows), params, shared_text="keep")
    assert linked.reasons == {"job-0": "advisor_absent"}


def test_lone_surrogates_and_names_of_other_encodings_stop_no_run(
    make_db: MakeDb, source: Path, critique: Critique, params: Params
) -> None:
    surrogate = serialize_critique(critique).replace('{"image', '{"\\ud800x": 1, "image', 1)
    with suppress(OSError):  # a Mac's disk refuses the name
        (source / "caf\udce9.jpg").write_bytes((source / "1.jpg").read_bytes())
    other = serialize_critique(write_critique("ansel", draw_scene(6, 1)))
    path = source.parent / "critiques.jsonl"
    entries = [
        {"photo": "0.jpg", "critique": surrogate},
        {"photo": "caf\udce9.jpg", "critique": other},
    ]
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    linked = run_link(path, params, source=source)
    assert [r.photo.path for r in linked.records] == [str(source / "0.jpg")]
    assert list(linked.reasons.values()) == ["image_missing"]


def test_a_full_scratch_disk_is_one_clear_line(
    make_db: MakeDb,
    source: Path,
    critique: Critique,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = make_db({"filename": "0.jpg", "analysis_markdown": serialize_critique(critique)})
    for step in ("executescript", "executemany", "execute"):
        with monkeypatch.context() as patch:
            fake = SimpleNamespace(connect=lambda *a, s=step, **k: FullDisk(s), Error=sqlite3.Error)
            patch.setattr("mondrian.data.link_store.sqlite3", fake)
            with pytest.raises(DataError, match="make room there, or set TMPDIR"):
                run_link(path, params)


class FullDisk(sqlite3.Connection):
    """A scratch database that raises as if the disk were full when a certain method is called."""

    def __init__(self, step: str) -> None:
        super().__init__(":memory:", isolation_level=None)
        self.step = step

    def executescript(self, *args: Any) -> Any:
        return self._unless("executescript", *args)

    def executemany(self, *args: Any) -> Any:
        return self._unless("executemany", *args)

    def execute(self, *args: Any) -> Any:
        return self._unless("execute", *args)

    def _unless(self, step: str, *args: Any) -> Any:
        if step == self.step:
            raise sqlite3.OperationalError("database or disk is full")
        return getattr(super(), step)(*args)


def test_the_printed_counts_fit_a_terminal() -> None:
    rejected = {str(reason): 100_000 for reason in RejectionReason}
    counts = {"finished": 10**7, "linked": 10**6, "photos": 10**6, "rejected": rejected}
    lines = format_link_summary("ansel", counts | {"reviewed": {}}).splitlines()
    assert max(map(len, lines)) <= 100
    printed = " · ".join(
        line.strip() for line in lines[1:] if not line.startswith("  unreviewed c")
    )
    assert printed == " · ".join(f"{reason} {count}" for reason, count in rejected.items())
