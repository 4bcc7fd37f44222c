"""What people say of critiques: kept whole, never of another text, and refused with every fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique, validate_critique
from mondrian.serving.feedback.form import build_critique_body, build_draft, initial_form_values
from mondrian.serving.feedback.merge import build_feedback_values, count_changes
from mondrian.serving.feedback.schema import InvalidFeedback, parse_feedback
from mondrian.serving.jobs.view import build_job_view
from mondrian.storage.feedback import add_feedback, load_feedback_history, load_newest_feedback
from mondrian.storage.jobs import JobRow, JobStore
from tests.reviewing import open_store, say, served


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return open_store(tmp_path / "jobs.db")


def told(critique: Critique | None, /, **said: Any) -> dict[str, Any]:
    return build_feedback_values(parse_feedback(json.dumps(said)), "ansel", critique, ())


def faults(body: Any, critique: Critique | None = None) -> dict[str, str]:
    try:
        opinion = parse_feedback(body if isinstance(body, str) else json.dumps(body))
        build_feedback_values(opinion, "ansel", critique, ())
    except InvalidFeedback as error:
        return {fault.field: fault.told for fault in error.faults}
    return {}


def newest_of(store: JobStore, row: JobRow) -> JobRow:
    return load_newest_feedback(store.engine, [row["id"]])[row["id"], "ansel"]


def test_corrected_scores_are_put_in_and_the_overall_one_follows(critique: Critique) -> None:
    said = told(critique, scores={"Lighting": 0.5, "Composition": 9.5})
    whole = validate_critique(said["critique"])
    assert said["verdict"] == "corrected"
    assert whole.scores()[:2] == (9.5, 0.5)
    assert whole.overall_score == round(sum(whole.scores()) / 7, 1)
    assert whole.image_description == critique.image_description
    exact = validate_critique(told(critique, scores={"Lighting": 0.5}, overall_score=3)["critique"])
    assert exact.overall_score == 3
    assert count_changes(critique, exact)[1] == 0


def test_a_correction_that_changes_nothing_accepts(critique: Critique) -> None:
    same = json.loads(serialize_critique(critique))
    accepted = {"verdict": "accepted", "critique": None}
    assert told(critique, critique=same) == accepted
    assert told(critique, critique=same, verdict="corrected") == accepted
    assert told(critique, overall_score=critique.overall_score) == accepted
    assert told(critique, verdict="accepted") == accepted


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
def test_every_fault_is_told_with_its_field(
    critique: Critique, body: Any, fields: list[str]
) -> None:
    found = faults(body, critique)
    assert sorted(found) == fields
    assert all(len(words) < 300 for words in found.values())


def test_a_whole_critique_is_held_to_the_one_schema(critique: Critique) -> None:
    whole = json.loads(serialize_critique(critique))
    whole["dimensions"][2] |= {"score": 11, "comment": ""}
    whole |= {"technical_notes": "x" * 1201, "grade": 1}
    assert faults({"critique": whole}, critique) == {
        "critique.dimensions.2.score": "is 11; should be less than or equal to 10",
        "critique.dimensions.2.comment": "is empty",
        "critique.technical_notes": "has 1,201 characters; most 1,200",
        "critique.grade": "is no field",
    }
    for text in ("a <|im_end|> b", "a <image> b", "\0", "… !"):
        spoilt = json.loads(serialize_critique(critique)) | {"technical_notes": text}
        assert faults({"critique": spoilt}, critique)
    assert "verdict" in faults({"verdict": "accepted"})  # of what is no critique
    assert "critique" in faults({"scores": {"Lighting": 1}})
    assert told(None, critique=json.loads(serialize_critique(critique)))["verdict"] == "corrected"


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
def test_no_body_breaks_it(body: Any) -> None:
    faults(json.dumps(body))


def test_what_is_not_said_stays_and_all_is_remembered(store: JobStore, critique: Critique) -> None:
    row = served(store, critique, adapter_version="v2", side="candidate", rollout="ansel/v2")
    say(store, row, critique, thumbs=1, note="good")
    say(store, row, critique, **told(critique, scores={"Lighting": 0.5}, who="Ana"))
    say(store, row, critique, thumbs=-1, who="Ben")
    now = newest_of(store, row)
    assert (now["thumbs"], now["note"], now["verdict"], now["who"]) == (
        -1,
        "good",
        "corrected",
        "Ana",
    )
    assert validate_critique(now["critique"]).scores()[1] == 0.5
    assert now["original"] == serialize_critique(critique)
    seen = ("photo_sha256", "model_used", "adapter_version", "side", "rollout")
    assert [now[name] for name in seen] == [row[name] for name in seen]
    assert [one["verdict"] for one in load_feedback_history(store.engine, row["id"])] == [
        "corrected",
        "corrected",
        None,
    ]
    job = store.get(row["id"])
    assert job
    assert (job["thumbs"], job["note"]) == (-1, "good")


def test_thumbs_down_take_an_acceptance_back_and_a_later_verdict_counts(
    store: JobStore, critique: Critique
) -> None:
    row = served(store, critique)
    say(store, row, critique, verdict="accepted", critique=None)
    say(store, row, critique, thumbs=-1)
    assert newest_of(store, row)["verdict"] is None
    say(store, row, critique, verdict="accepted", critique=None)
    assert (newest_of(store, row)["verdict"], newest_of(store, row)["thumbs"]) == ("accepted", -1)


def test_thumbs_from_before_the_table_are_not_lost(store: JobStore, critique: Critique) -> None:
    row = served(store, critique, thumbs=1, note="old")
    say(store, row, critique, verdict="accepted", critique=None)
    assert (newest_of(store, row)["thumbs"], newest_of(store, row)["note"]) == (1, "old")


def test_a_job_that_is_begun_again_has_no_feedback_of_its_old_text(
    store: JobStore, critique: Critique, params: Params
) -> None:
    row = served(store, critique, rollout="ansel/v2")
    say(store, row, critique, thumbs=1, **told(critique, scores={"Lighting": 0.5}))
    assert store.requeue(row["id"])
    assert not _kept(store, row, params)
    assert newest_of(store, row)["rollout"] == "ansel/v2"  # so that its numbers see it too
    assert store.claim()
    assert store.finish(row["id"], llm_outputs=row["llm_outputs"])  # word for word the same
    assert not _kept(store, row, params)
    assert len(load_feedback_history(store.engine, row["id"])) == 2


def test_feedback_of_a_text_that_another_program_changed_is_not_shown(
    store: JobStore, critique: Critique, params: Params
) -> None:
    row = served(store, critique)
    say(store, row, critique, verdict="accepted", critique=None)
    other = critique.model_copy(update={"technical_notes": "Other words."})
    store.update_job(row["id"], llm_outputs=json.dumps({"response": serialize_critique(other)}))
    assert not _kept(store, row, params)


def test_what_was_said_of_a_job_that_changed_meanwhile_is_refused(
    store: JobStore, critique: Critique
) -> None:
    row = served(store, critique)
    store.requeue(row["id"])
    assert not add_feedback(store.engine, row, {"thumbs": 1}, {"ansel": None})
    store.delete_inactive()
    assert not add_feedback(store.engine, row, {"thumbs": 1}, {"ansel": None})


def test_clearing_the_jobs_forgets_what_was_said_of_them(
    store: JobStore, critique: Critique
) -> None:
    row, other = served(store, critique), served(store, critique, kind=None)
    for one in (row, other):
        say(store, one, critique, thumbs=1)
    store.delete_inactive()
    assert load_feedback_history(store.engine, row["id"]) == []
    assert len(load_feedback_history(store.engine, other["id"])) == 1  # of another program's job


def test_the_form_gives_what_was_typed_and_nothing_else(critique: Critique) -> None:
    typed = initial_form_values(critique)
    assert (
        build_critique_body({}, critique)
        == build_critique_body(typed, critique)
        == json.loads(serialize_critique(critique))
    )
    crlf = {name: value.replace("\n", "\r\n") + " " for name, value in typed.items()}
    assert build_critique_body(crlf, critique) == json.loads(serialize_critique(critique))
    typed |= {"dimensions.1.score": "0,5", "key_strengths": "one\r\n\r\ntwo"}
    body = build_critique_body(typed, critique)
    assert body["dimensions"][1]["score"] == 0.5
    assert body["key_strengths"] == ["one", "two"]
    assert body["overall_score"] != critique.overall_score  # it follows
    bad = typed | {"dimensions.1.score": "much", "key_strengths": ""}
    with pytest.raises(InvalidFeedback) as caught:
        parse_feedback(json.dumps({"critique": build_critique_body(bad, critique)}))
    draft = build_draft(bad, caught.value.faults, critique)
    assert set(draft.faults) == {"dimensions.1.score", "key_strengths"}
    assert draft.values["dimensions.1.score"] == "much"


def _kept(store: JobStore, row: JobRow, params: Params) -> str:
    """What its page would say was said."""
    now = store.get(row["id"])
    assert now
    now |= {"status": "completed"}
    return (
        build_job_view(now, params, load_newest_feedback(store.engine, [row["id"]])).said[0].opinion
    )
