"""Feedback on critiques: stored completely, never about another text, rejected with all errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique, validate_critique
from mondrian.serving.feedback.form import (
    build_critique_body,
    build_draft,
    build_feedback_body,
    initial_form_values,
)
from mondrian.serving.feedback.request import (
    InvalidFeedbackError,
    build_feedback_values,
    count_changes,
    parse_feedback,
)
from mondrian.serving.jobs.view import build_job_view
from mondrian.storage.feedback import add_feedback, load_feedback_history, load_newest_feedback
from mondrian.storage.jobs import JobRow, JobStore
from tests.reviewing import add_completed_job, change_row, open_store, write_feedback


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return open_store(tmp_path / "jobs.db")


def values_of(critique: Critique | None, /, **body: Any) -> dict[str, Any]:
    return build_feedback_values(parse_feedback(json.dumps(body)), "ansel", critique, ())


def errors_of(body: Any, critique: Critique | None = None) -> dict[str, str]:
    try:
        request = parse_feedback(body if isinstance(body, str) else json.dumps(body))
        build_feedback_values(request, "ansel", critique, ())
    except InvalidFeedbackError as invalid:
        return {error.field: error.message for error in invalid.errors}
    return {}


def newest_of(store: JobStore, row: JobRow) -> JobRow:
    return load_newest_feedback(store.engine, [row["id"]])[row["id"], "ansel"]


def test_corrected_scores_are_stored_and_the_overall_score_becomes_their_mean(
    critique: Critique,
) -> None:
    values = values_of(critique, scores={"Lighting": 0.5, "Composition": 9.5})
    corrected = validate_critique(values["critique"])
    assert values["verdict"] == "corrected"
    assert corrected.scores()[:2] == (9.5, 0.5)
    assert corrected.overall_score == round(sum(corrected.scores()) / 7, 1)
    assert corrected.image_description == critique.image_description
    values = values_of(critique, scores={"Lighting": 0.5}, overall_score=3)
    exact = validate_critique(values["critique"])
    assert exact.overall_score == 3
    assert count_changes(critique, exact)[1] == 0


def test_a_correction_without_changes_is_an_acceptance(critique: Critique) -> None:
    same = json.loads(serialize_critique(critique))
    accepted = {"verdict": "accepted", "critique": None}
    assert values_of(critique, critique=same) == accepted
    assert values_of(critique, critique=same, verdict="corrected") == accepted
    assert values_of(critique, overall_score=critique.overall_score) == accepted
    assert values_of(critique, verdict="accepted") == accepted


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("", [""]),
        ("[1]", [""]),
        ('{"note": "\\ud800"}', [""]),
        ("[" * 100_000, [""]),
        ("{}", [""]),
        ('{"advisor": "ansel"}', [""]),
        ({"thumbs": 2}, ["thumbs"]),
        ({"thumbs": 0}, ["thumbs"]),
        ({"thumbs": True}, ["thumbs"]),
        ({"note": "x" * 1001, "who": "a\0b"}, ["note", "who"]),
        ('{"scores": {"Lighting": NaN}}', ["scores.Lighting"]),
        (
            '{"scores": {"Lighting": 1e999, "Composition": "8"}}',
            ["scores.Composition", "scores.Lighting"],
        ),
        (f'{{"overall_score": 1{"0" * 500}}}', ["overall_score"]),
        ({"scores": {"Lighting": 6.55}, "verdic": "x"}, ["scores.Lighting", "verdic"]),
        ({"scores": {"Light": 5, "Mood": 5}}, ["scores.Light", "scores.Mood"]),
        ({"verdict": "corrected"}, ["verdict"]),
        ({"verdict": "accepted", "scores": {"Lighting": 0.1}}, ["verdict"]),
        ({"verdict": None, "scores": {"Lighting": 0.1}}, ["verdict"]),
    ],
)
def test_every_error_names_its_field(critique: Critique, body: Any, fields: list[str]) -> None:
    errors = errors_of(body, critique)
    assert sorted(errors) == fields
    assert all(len(message) < 300 for message in errors.values())


def test_a_corrected_critique_must_be_schema_valid(critique: Critique) -> None:
    whole = json.loads(serialize_critique(critique))
    whole["dimensions"][2] |= {"score": 11, "comment": ""}
    whole |= {"technical_notes": "x" * 1201, "grade": 1}
    assert errors_of({"critique": whole}, critique) == {
        "critique.dimensions.2.score": "is 11; should be less than or equal to 10",
        "critique.dimensions.2.comment": "is empty",
        "critique.technical_notes": "has 1,201 characters; at most 1,200",
        "critique.grade": "is not a field",
    }
    for text in ("a <|im_end|> b", "a <image> b", "\0", "… !"):
        invalid = json.loads(serialize_critique(critique)) | {"technical_notes": text}
        assert errors_of({"critique": invalid}, critique)
    assert "verdict" in errors_of({"verdict": "accepted"})  # the answer was not a valid critique
    assert "critique" in errors_of({"scores": {"Lighting": 1}})
    assert (
        values_of(None, critique=json.loads(serialize_critique(critique)))["verdict"] == "corrected"
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["thumbs", "scores", "critique", "verdict", "note", *DIMENSIONS]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_body_is_accepted_or_rejected(body: Any) -> None:
    errors = errors_of(json.dumps(body))
    assert all(errors.values())
    assert errors or isinstance(body, dict)


def test_absent_fields_keep_their_value_and_the_history_is_complete(
    store: JobStore, critique: Critique
) -> None:
    row = add_completed_job(
        store, critique, adapter_version="v2", side="candidate", rollout="ansel/v2"
    )
    write_feedback(store, row, critique, thumbs=1, note="good")
    write_feedback(store, row, critique, **values_of(critique, scores={"Lighting": 0.5}, who="Ana"))
    write_feedback(store, row, critique, thumbs=-1, who="Ben")
    newest = newest_of(store, row)
    assert [newest[name] for name in ("thumbs", "note", "verdict", "who")] == [
        -1,
        "good",
        "corrected",
        "Ana",
    ]
    assert validate_critique(newest["critique"]).scores()[1] == 0.5
    assert newest["original"] == serialize_critique(critique)
    copied = ("photo_sha256", "model_used", "adapter_version", "side", "rollout")
    assert [newest[name] for name in copied] == [row[name] for name in copied]
    history = load_feedback_history(store.engine, row["id"])
    assert [entry["verdict"] for entry in history] == ["corrected", "corrected", None]
    job = store.get(row["id"])
    assert job
    assert (job["thumbs"], job["note"]) == (-1, "good")


def test_thumbs_down_withdraw_an_acceptance_and_a_later_verdict_counts(
    store: JobStore, critique: Critique
) -> None:
    row = add_completed_job(store, critique)
    write_feedback(store, row, critique, verdict="accepted", critique=None)
    write_feedback(store, row, critique, thumbs=-1)
    assert newest_of(store, row)["verdict"] is None
    write_feedback(store, row, critique, verdict="accepted", critique=None)
    assert (newest_of(store, row)["verdict"], newest_of(store, row)["thumbs"]) == ("accepted", -1)


def test_thumbs_from_before_the_feedback_table_areshown_feedback(
    store: JobStore, critique: Critique
) -> None:
    row = add_completed_job(store, critique, thumbs=1, note="old")
    write_feedback(store, row, critique, verdict="accepted", critique=None)
    assert (newest_of(store, row)["thumbs"], newest_of(store, row)["note"]) == (1, "old")


def test_a_requeued_job_has_no_feedback_on_its_old_text(
    store: JobStore, critique: Critique, params: Params
) -> None:
    row = add_completed_job(store, critique, rollout="ansel/v2")
    write_feedback(store, row, critique, thumbs=1, **values_of(critique, scores={"Lighting": 0.5}))
    assert store.restart(row["id"])
    assert not shown_feedback(store, row, params)
    assert newest_of(store, row)["rollout"] == "ansel/v2"  # so the rollout counts it too
    claimed = store.claim()
    assert claimed
    assert store.complete(claimed, llm_outputs=row["llm_outputs"])  # the same text
    assert not shown_feedback(store, row, params)
    assert len(load_feedback_history(store.engine, row["id"])) == 2


def test_feedback_on_a_text_that_another_program_changed_is_not_shown(
    store: JobStore, critique: Critique, params: Params
) -> None:
    row = add_completed_job(store, critique)
    write_feedback(store, row, critique, verdict="accepted", critique=None)
    other = critique.model_copy(update={"technical_notes": "Other words."})
    change_row(store, row["id"], llm_outputs=json.dumps({"response": serialize_critique(other)}))
    assert not shown_feedback(store, row, params)


def test_feedback_on_a_job_that_has_changed_meanwhile_is_rejected(
    store: JobStore, critique: Critique
) -> None:
    row = add_completed_job(store, critique)
    store.restart(row["id"])
    assert not add_feedback(store.engine, row, {"thumbs": 1}, {"ansel": None})
    store.delete_inactive()
    assert not add_feedback(store.engine, row, {"thumbs": 1}, {"ansel": None})


def test_deleting_jobs_deletes_their_feedback(store: JobStore, critique: Critique) -> None:
    row, other = add_completed_job(store, critique), add_completed_job(store, critique, kind=None)
    for job in (row, other):
        write_feedback(store, job, critique, thumbs=1)
    store.delete_inactive()
    assert load_feedback_history(store.engine, row["id"]) == []
    assert len(load_feedback_history(store.engine, other["id"])) == 1  # another program's job


def test_the_form_changes_only_the_edited_fields(critique: Critique) -> None:
    form = initial_form_values(critique)
    assert (
        build_critique_body({}, critique)
        == build_critique_body(form, critique)
        == json.loads(serialize_critique(critique))
    )
    crlf = {name: value.replace("\n", "\r\n") + " " for name, value in form.items()}
    assert build_critique_body(crlf, critique) == json.loads(serialize_critique(critique))
    form |= {"dimensions.1.score": "0,5", "key_strengths": "one\r\n\r\ntwo"}
    body = build_critique_body(form, critique)
    assert body["dimensions"][1]["score"] == 0.5
    assert body["key_strengths"] == ["one", "two"]
    assert body["overall_score"] != critique.overall_score  # it is the mean
    invalid = form | {"dimensions.1.score": "much", "key_strengths": ""}
    with pytest.raises(InvalidFeedbackError) as caught:
        parse_feedback(json.dumps({"critique": build_critique_body(invalid, critique)}))
    draft = build_draft(critique, "a note", invalid, caught.value.errors)
    assert set(draft.errors) == {"dimensions.1.score", "key_strengths"}
    assert draft.values["dimensions.1.score"] == "much"
    assert draft.values["note"] == "a note"
    assert draft.first_error == "dimensions.1.score"


@pytest.mark.parametrize(
    "button", [{"thumbs": "up"}, {"verdict": "accepted"}, {"correct": "yes"}, {}]
)
def test_every_button_sends_the_typed_texts_too(critique: Critique, button: dict[str, str]) -> None:
    typed = {"note": "so so", "technical_notes": "Too dark.", "dimensions.0.score": "1.5"}
    body = build_feedback_body(initial_form_values(critique) | typed | button, "ansel", critique)
    assert body["note"] == "so so"
    assert body["critique"]["technical_notes"] == "Too dark."
    values = build_feedback_values(parse_feedback(json.dumps(body)), "ansel", critique, ())
    assert values["verdict"] == "corrected"
    assert values.get("thumbs") == (1 if "thumbs" in button else None)


@pytest.mark.parametrize("verdict", ["original", "withdrawn"])
def test_a_button_that_would_discard_changes_is_rejected(critique: Critique, verdict: str) -> None:
    unchanged = initial_form_values(critique) | {"verdict": verdict}
    body = build_feedback_body(unchanged, "ansel", critique)
    assert body["verdict"] == ("accepted" if verdict == "original" else None)
    assert "critique" not in body
    with pytest.raises(InvalidFeedbackError, match="save the correction, or undo the changes"):
        build_feedback_body(unchanged | {"technical_notes": "Too dark."}, "ansel", critique)


def test_a_note_alone_is_no_correction(critique: Critique) -> None:
    form = initial_form_values(critique) | {"note": "nice", "correct": "yes"}
    assert build_feedback_body(form, "ansel", critique) == {"advisor": "ansel", "note": "nice"}


def shown_feedback(store: JobStore, row: JobRow, params: Params) -> str:
    """Return the feedback that the job's page would show."""
    job = store.get(row["id"])
    assert job
    feedback = load_newest_feedback(store.engine, [row["id"]])
    view = build_job_view(job | {"status": "completed"}, params, feedback)
    return view.results[0].feedback_summary
