"""Served critiques are training data if a person has reviewed them, and only then."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.link import format_link_summary
from mondrian.data.sqlite_source import open_database
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from mondrian.storage.jobs import JobStore
from tests.data.link_runs import run_link
from tests.reviewing import add_completed_job, change_row, open_store, with_scores, write_feedback

KEEP_ALL = dict.fromkeys(
    (
        "made_by_adapter",
        "template_scores",
        "constant_scores",
        "shared_text",
        "wrong_picture",
        "dimension_twice",
        "repeated_advice",
        "overall_off_mean",
    ),
    "keep",
)
ADAPTER = {
    "adapter": "models/v2",
    "model_used": "ab_test_fine_tuned",
    "adapter_version": "v2",
}


def test_a_deleted_upload_is_missing_even_if_a_photo_has_its_original_name(
    store: JobStore, params: Params, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    prefix = "0b9b6e0e-5f2e-4bd4-8f39-6a1d3f0c9a11_"
    (source / "uploads/0.jpg").rename(source / "cat.jpg")
    (source / "uploads/1.jpg").rename(source / f"uploads/{prefix}dog.jpg")
    for i, name in enumerate(("cat.jpg", "dog.jpg")):
        accept(store, add_completed_job(store, make_critique(i), f"uploads/{prefix}{name}"), i)
    linked = run_link(tmp_path / "mondrian.db", params)
    assert list(linked.reasons.values()) == ["image_missing"]
    assert [record.photo.match_kind for record in linked.records] == ["as_stored"]


@pytest.fixture
def store(tmp_path: Path, photos: list[Image.Image]) -> JobStore:
    folder = tmp_path / "source" / "uploads"
    folder.mkdir(parents=True)
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i}.jpg")
    return open_store(tmp_path / "mondrian.db")


def make_critique(i: int) -> Critique:
    return write_critique("ansel", draw_scene(5, i))


def serve(store: JobStore, i: int, **values: Any) -> dict[str, Any]:
    return add_completed_job(store, make_critique(i), f"uploads/{i}.jpg", **values)


def accept(store: JobStore, row: dict[str, Any], i: int) -> None:
    write_feedback(store, row, make_critique(i), verdict="accepted", critique=None, who="Ana")


def correct(store: JobStore, row: dict[str, Any], i: int, **scores: float) -> Critique:
    correction = with_scores(make_critique(i), **scores)
    write_feedback(
        store,
        row,
        make_critique(i),
        verdict="corrected",
        critique=serialize_critique(correction),
        who="Ana",
    )
    return correction


def database_path(store: JobStore) -> Path:
    return Path(str(store.engine.url.database))


def test_only_reviewed_critiques_are_linked_with_any_setting(
    store: JobStore, params: Params
) -> None:
    base, tuned, shadow, unreviewed, disliked = (
        serve(store, i, **(ADAPTER if i % 2 else {}), kind="shadow" if i == 2 else "upload")
        for i in range(5)
    )
    serve(store, 5, **ADAPTER, kind="direct")  # thumbs alone are no review
    accept(store, base, 0)
    correction = correct(store, tuned, 1, Lighting=0.5)
    accept(store, shadow, 2)
    accept(store, disliked, 4)
    write_feedback(store, disliked, make_critique(4), thumbs=-1)
    linked = run_link(database_path(store), params, **KEEP_ALL)
    records = {record.job_id: record for record in linked.records}
    assert set(records) == {base["id"], tuned["id"], shadow["id"]}
    assert set(linked.reasons.values()) == {"unreviewed"}
    assert unreviewed["id"] in linked.reasons
    assert disliked["id"] in linked.reasons
    assert linked.counts["reviewed"] == {"accepted": 2, "corrected": 1}
    record = records[tuned["id"]]
    assert (record.critique, record.text_from) == (correction, "feedback")
    assert record.photo.path.endswith("uploads/1.jpg")
    assert record.review
    provenance = record.review.model_dump(exclude={"reviewed_at"})
    assert provenance == {
        "verdict": "corrected",
        "served_by": "ab_test_fine_tuned",
        "adapter_version": "v2",
        "who": "Ana",
    }
    assert records[base["id"]].critique == make_critique(0)
    assert "accepted 2 · corrected 1" in format_link_summary("ansel", linked.counts)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("reviewed", {0, 1}),
        ("corrected", {1}),
        ("leave_out", set()),
    ],
)
def test_the_setting_selects_the_reviews_that_count(
    store: JobStore, params: Params, setting: str, expected: set[int]
) -> None:
    rows = [serve(store, i) for i in range(2)]
    other = serve(store, 3, kind=None)  # another program's
    accept(store, rows[0], 0)
    correct(store, rows[1], 1, Lighting=0.5)
    linked = run_link(database_path(store), params, include_served=setting)
    job_ids = {rows[i]["id"] for i in expected} | {other["id"]}
    assert {record.job_id for record in linked.records} == job_ids


def test_no_flag_leaves_out_a_reviewed_critique(store: JobStore, params: Params) -> None:
    texts = [
        with_scores(make_critique(i), Lighting=9.5) for i in range(3)
    ]  # far from their overall
    rows = [add_completed_job(store, text, "uploads/0.jpg", **ADAPTER) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        write_feedback(store, row, text, verdict="accepted", critique=None)
    old = add_completed_job(store, make_critique(4), "uploads/0.jpg", kind=None)
    linked = run_link(database_path(store), params)
    assert {record.job_id for record in linked.records} == {row["id"] for row in (*rows, old)}
    flags = {record.job_id: record.suspicions for record in linked.records}
    assert flags[rows[0]["id"]] == ("made_by_adapter", "overall_off_mean")
    assert flags[old["id"]] == ()  # three critiques of its photograph, reviewed, are not flagged


def test_of_equal_texts_the_corrected_one_is_linked(store: JobStore, params: Params) -> None:
    first, second, third = (serve(store, 0, created_at=f"2026-01-0{i}") for i in (1, 2, 3))
    before = serve(store, 0, kind=None, created_at="2025-01-01")
    accept(store, first, 0)
    accept(store, second, 0)
    correction = correct(store, third, 0, Lighting=0.5)
    linked = run_link(database_path(store), params)
    assert [(r.job_id, r.critique) for r in linked.records] == [(third["id"], correction)]
    assert linked.reasons == dict.fromkeys((first["id"], second["id"], before["id"]), "duplicate")


def test_a_review_of_a_text_that_changed_later_does_not_count(
    store: JobStore, params: Params
) -> None:
    row, other = serve(store, 0), serve(store, 1)
    for i, served_row in enumerate((row, other)):
        accept(store, served_row, i)
    changed = serialize_critique(make_critique(2))
    change_row(store, row["id"], llm_outputs=json.dumps({"response": changed}))
    linked = run_link(database_path(store), params)
    assert linked.reasons == {row["id"]: "unreviewed"}
    store.restart(other["id"])
    with pytest.raises(DataError, match="1 were served here: accept or correct them"):
        run_link(database_path(store), params)


def test_a_review_counts_only_for_its_advisor(store: JobStore, params: Params) -> None:
    texts = {
        name: serialize_critique(write_critique(name, draw_scene(5, 0)))
        for name in ("ansel", "okeefe")
    }
    row = add_completed_job(
        store,
        make_critique(0),
        "uploads/0.jpg",
        advisor="ansel,okeefe",
        llm_outputs=json.dumps(texts),
    )
    accept(store, row, 0)
    assert [r.job_id for r in run_link(database_path(store), params).records] == [row["id"]]
    with pytest.raises(DataError, match="unreviewed 1"):
        run_link(database_path(store), params, "okeefe")


def test_a_correction_of_another_programs_row_counts(store: JobStore, params: Params) -> None:
    row = serve(store, 0, kind=None, **ADAPTER)
    with pytest.raises(DataError, match="made_by_adapter 1"):
        run_link(database_path(store), params)
    correction = correct(store, row, 0, Lighting=0.5)
    assert [r.critique for r in run_link(database_path(store), params).records] == [correction]


@pytest.mark.parametrize("index", [True, False])
def test_many_reviews_are_read_in_one_pass(tmp_path: Path, index: bool) -> None:
    path = tmp_path / "many.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (id PRIMARY KEY, filename, advisor, status, kind)")
        connection.execute(
            "CREATE TABLE mondrian_feedback (number INTEGER PRIMARY KEY, job TEXT, advisor TEXT, "
            "verdict TEXT, critique TEXT, original TEXT, who TEXT, at DOUBLE)"
        )
        if index:  # with which SQLite may choose to go through all reviews for each job
            connection.execute("CREATE INDEX by_job ON mondrian_feedback (job)")
        ids = [f"j{i}" for i in range(20_000)]
        connection.executemany(
            "INSERT INTO jobs VALUES (?, 'x.jpg', 'ansel', 'completed', 'upload')",
            ((id,) for id in ids),
        )
        for verdict in ("accepted", "corrected"):
            connection.executemany(
                "INSERT INTO mondrian_feedback (job, advisor, verdict) VALUES (?, 'ansel', ?)",
                ((id, verdict) for id in ids),
            )
    connection.close()
    # 20 million instructions of SQLite's virtual machine; with quadratic time it takes billions
    budget = iter(range(2000))
    with open_database(path) as database:
        database._connection.set_progress_handler(lambda: next(budget, None) is None, 10_000)
        verdicts = {job.review and job.review.verdict for job in database.iter_finished("ansel")}
    assert verdicts == {"corrected"}


def test_a_database_without_feedback_is_read_as_before(
    make_db: Callable[..., Path], tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    path = make_db({"filename": "0.jpg", "analysis_markdown": serialize_critique(make_critique(0))})
    photos[0].save(tmp_path / "source" / "0.jpg")
    linked = run_link(path, params)
    assert len(linked.records) == 1
    assert linked.records[0].review is None
    with sqlite3.connect(path) as connection:  # job ids that are numbers, and a feedback table
        connection.execute("UPDATE jobs SET id = 7")
        connection.execute(
            "CREATE TABLE mondrian_feedback (number INTEGER PRIMARY KEY, job TEXT, advisor TEXT, "
            "verdict TEXT, critique TEXT, original TEXT, who TEXT, at DOUBLE)"
        )
    connection.close()
    assert len(run_link(path, params).records) == 1
