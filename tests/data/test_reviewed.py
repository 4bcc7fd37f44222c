"""Served critiques are training data when a person has reviewed them, and never otherwise."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
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
from tests.data.test_link import run_link
from tests.reviewing import corrected, open_store, say, served

KEEP_ALL = dict.fromkeys(
    (
        "made_by_adapter",
        "template_scores",
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


@pytest.fixture
def store(tmp_path: Path, photos: list[Image.Image]) -> JobStore:
    folder = tmp_path / "source" / "uploads"
    folder.mkdir(parents=True)
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i}.jpg")
    return open_store(tmp_path / "mondrian.db")


def critique_of(i: int) -> Critique:
    return write_critique("ansel", draw_scene(5, i))


def served_of(store: JobStore, i: int, **values: Any) -> dict[str, Any]:
    return served(store, critique_of(i), f"uploads/{i}.jpg", **values)


def accept(store: JobStore, row: dict[str, Any], i: int) -> None:
    say(store, row, critique_of(i), verdict="accepted", critique=None, who="Ana")


def correct(store: JobStore, row: dict[str, Any], i: int, **scores: float) -> Critique:
    new = corrected(critique_of(i), **scores)
    say(
        store, row, critique_of(i), verdict="corrected", critique=serialize_critique(new), who="Ana"
    )
    return new


def path_of(store: JobStore) -> Path:
    return Path(str(store.engine.url.database))


def test_only_what_a_person_reviewed_is_linked_whatever_the_settings(
    store: JobStore, params: Params
) -> None:
    base, tuned, shadow, silent, down = (
        served_of(store, i, **(ADAPTER if i % 2 else {}), kind="shadow" if i == 2 else "upload")
        for i in range(5)
    )
    served_of(store, 5, **ADAPTER, kind="direct")  # thumbs alone are no review
    accept(store, base, 0)
    new = correct(store, tuned, 1, Lighting=0.5)
    accept(store, shadow, 2)
    accept(store, down, 4)
    say(store, down, critique_of(4), thumbs=-1)
    found = run_link(path_of(store), params, **KEEP_ALL)
    records = {record.job_id: record for record in found.records}
    assert set(records) == {base["id"], tuned["id"], shadow["id"]}
    assert set(found.reasons.values()) == {"unreviewed"}
    assert silent["id"] in found.reasons
    assert down["id"] in found.reasons
    assert found.counts["reviewed"] == {"accepted": 2, "corrected": 1}
    record = records[tuned["id"]]
    assert (record.critique, record.text_from) == (new, "feedback")
    assert record.photo.path.endswith("uploads/1.jpg")
    assert record.review
    told = record.review.model_dump(exclude={"at"})
    assert told == {
        "verdict": "corrected",
        "served_by": "ab_test_fine_tuned",
        "adapter_version": "v2",
        "who": "Ana",
    }
    assert records[base["id"]].critique == critique_of(0)
    assert "accepted 2 · corrected 1" in format_link_summary("ansel", found.counts)


@pytest.mark.parametrize(
    ("setting", "linked"),
    [
        ("reviewed", {0, 1}),
        ("corrected", {1}),
        ("leave_out", set()),
    ],
)
def test_a_setting_says_which_reviews_count(
    store: JobStore, params: Params, setting: str, linked: set[int]
) -> None:
    rows = [served_of(store, i) for i in range(2)]
    other = served_of(store, 3, kind=None)  # another program's
    accept(store, rows[0], 0)
    correct(store, rows[1], 1, Lighting=0.5)
    found = run_link(path_of(store), params, include_served=setting)
    wanted = {rows[i]["id"] for i in linked} | {other["id"]}
    assert {record.job_id for record in found.records} == wanted


def test_no_flag_leaves_out_what_a_person_took(store: JobStore, params: Params) -> None:
    texts = [corrected(critique_of(i), Lighting=9.5) for i in range(3)]  # far from their overall
    rows = [served(store, text, "uploads/0.jpg", **ADAPTER) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        say(store, row, text, verdict="accepted", critique=None)
    old = served(store, critique_of(4), "uploads/0.jpg", kind=None)
    found = run_link(path_of(store), params, critiques_per_photo=1)
    assert {record.job_id for record in found.records} == {row["id"] for row in (*rows, old)}
    flags = {record.job_id: record.suspicions for record in found.records}
    assert flags[rows[0]["id"]] == ("made_by_adapter", "overall_off_mean")
    assert flags[old["id"]] == ()  # three critiques of its photograph, reviewed, are no suspicion


def test_of_equal_texts_the_corrected_one_stays(store: JobStore, params: Params) -> None:
    first, second, third = (served_of(store, 0, created_at=f"2026-01-0{i}") for i in (1, 2, 3))
    before = served_of(store, 0, kind=None, created_at="2025-01-01")
    accept(store, first, 0)
    accept(store, second, 0)
    new = correct(store, third, 0, Lighting=0.5)
    found = run_link(path_of(store), params)
    assert [(r.job_id, r.critique) for r in found.records] == [(third["id"], new)]
    assert found.reasons == dict.fromkeys((first["id"], second["id"], before["id"]), "duplicate")


def test_a_review_of_another_text_than_is_there_now_does_not_count(
    store: JobStore, params: Params
) -> None:
    row, other = served_of(store, 0), served_of(store, 1)
    for i, one in enumerate((row, other)):
        accept(store, one, i)
    changed = serialize_critique(critique_of(2))
    store.update_job(row["id"], llm_outputs=json.dumps({"response": changed}))
    found = run_link(path_of(store), params)
    assert found.reasons == {row["id"]: "unreviewed"}
    store.requeue(other["id"])
    with pytest.raises(DataError, match="1 were served here: accept or correct them"):
        run_link(path_of(store), params)


def test_the_review_of_one_advisor_is_not_of_another(store: JobStore, params: Params) -> None:
    told = {
        name: serialize_critique(write_critique(name, draw_scene(5, 0)))
        for name in ("ansel", "okeefe")
    }
    row = served(
        store, critique_of(0), "uploads/0.jpg", advisor="ansel,okeefe", llm_outputs=json.dumps(told)
    )
    accept(store, row, 0)
    assert [r.job_id for r in run_link(path_of(store), params).records] == [row["id"]]
    with pytest.raises(DataError, match="unreviewed 1"):
        run_link(path_of(store), params, "okeefe")


def test_a_correction_of_another_program_s_row_counts_too(store: JobStore, params: Params) -> None:
    row = served_of(store, 0, kind=None, **ADAPTER)
    with pytest.raises(DataError, match="made_by_adapter 1"):
        run_link(path_of(store), params)
    new = correct(store, row, 0, Lighting=0.5)
    assert [r.critique for r in run_link(path_of(store), params).records] == [new]


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
    started = perf_counter()
    with open_database(path) as database:
        verdicts = {job.review and job.review.verdict for job in database.iter_finished("ansel")}
    assert verdicts == {"corrected"}
    assert perf_counter() - started < 15  # in half a second; in the square of it, a minute


def test_a_database_without_feedback_is_read_as_before(
    make_db: Callable[..., Path], tmp_path: Path, photos: list[Image.Image], params: Params
) -> None:
    path = make_db({"filename": "0.jpg", "analysis_markdown": serialize_critique(critique_of(0))})
    photos[0].save(tmp_path / "source" / "0.jpg")
    found = run_link(path, params)
    assert len(found.records) == 1
    assert found.records[0].review is None
    with sqlite3.connect(path) as connection:  # one whose ids are numbers, beside the table
        connection.execute("UPDATE jobs SET id = 7")
        connection.execute(
            "CREATE TABLE mondrian_feedback (number INTEGER PRIMARY KEY, job TEXT, advisor TEXT, "
            "verdict TEXT, critique TEXT, original TEXT, who TEXT, at DOUBLE)"
        )
    connection.close()
    assert len(run_link(path, params).records) == 1
