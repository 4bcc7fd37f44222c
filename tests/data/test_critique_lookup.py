import json
from pathlib import Path
from typing import Any

import pytest

from mondrian.critique.parser import ParsedCritique
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders, read_critique
from mondrian.data.jobs import Job
from mondrian.sample.corruptions import render_html_cards

UNREADABLE_PAGE = "<div class='analysis'><p>The light is soft, and the boats are small.</p></div>"
ERROR = "Error: Cannot connect to AI service - service may not be running"
MD, HTML = "analysis-ansel-job-1234.md", "analysis-photo-job-12.html"


@pytest.fixture
def folders(tmp_path: Path) -> ApplicationFolders:
    for name in ("source", "analysis_md", "analysis"):
        (tmp_path / name).mkdir()
    return ApplicationFolders(*(tmp_path / n for n in ("source", "analysis_md", "analysis")))


def read(folders: ApplicationFolders, **columns: Any) -> tuple[str, ParsedCritique] | Rejection:
    job = {"id": "job-1234", "filename": "photo.jpg", "advisor": "ansel", **columns}
    return read_critique(Job(**job), "ansel", folders)


def find_reason(folders: ApplicationFolders, **columns: Any) -> str:
    outcome = read(folders, **columns)
    assert isinstance(outcome, Rejection), outcome
    return str(outcome.reason)


@pytest.mark.parametrize(
    ("place", "readable"),
    [
        ("llm_outputs.ansel", {"llm_outputs": '{"ansel": TEXT}'}),
        ("llm_outputs.ansel", {"llm_outputs": '{"Ansel": {"response": TEXT}}'}),
        ("llm_outputs.response", {"llm_outputs": '{"ansel": "soft light", "response": TEXT}'}),
        ("llm_outputs", {"llm_outputs": "OBJECT"}),
        ("llm_outputs", {"llm_outputs": "```json\nOBJECT\n```"}),
        ("analysis_markdown", {"analysis_markdown": "# Ansel\n\n## Full Analysis\nOBJECT"}),
        ("analysis_html", {"analysis_html": "PAGE"}),
        ("analysis_md", {"file": MD}),
        ("analysis", {"file": HTML}),
    ],
)
def test_the_first_readable_place_counts_and_is_named(
    place: str, readable: dict[str, str], folders: ApplicationFolders, critique: Critique
) -> None:
    text, page = serialize_critique(critique), render_html_cards(critique)
    page = page.replace('data-advisor="sample"', 'data-advisor="ansel"')
    columns = {
        "llm_outputs": json.dumps({"response": "The light is soft, and the boats are small."}),
        "analysis_markdown": UNREADABLE_PAGE,
        "analysis_html": UNREADABLE_PAGE,
    }
    for key, stored in readable.items():
        content = stored.replace("TEXT", json.dumps(text)).replace("OBJECT", text)
        columns[key] = content.replace("PAGE", page)
    file = columns.pop("file", "")
    if file:
        folder = folders.analysis if file == MD else folders.html
        (folder / file).write_text(f"```json\n{text}\n```" if file == MD else page)
    outcome = read(folders, **columns)
    assert isinstance(outcome, tuple), outcome
    assert outcome[0] == place
    assert outcome[1].critique.dimensions == critique.dimensions


def test_of_two_readable_places_the_first_counts(
    folders: ApplicationFolders, critique: Critique
) -> None:
    other = critique.model_copy(update={"image_description": "Another photo."})
    outcome = read(
        folders,
        llm_outputs=json.dumps({"response": serialize_critique(critique)}),
        analysis_markdown=serialize_critique(other),
    )
    assert isinstance(outcome, tuple)
    assert outcome[0] == "llm_outputs.response"
    assert outcome[1].critique == critique


@pytest.mark.parametrize(
    "columns",
    [
        {"analysis_html": f"<p>{ERROR}</p>"},
        {"llm_outputs": json.dumps({"response": ERROR})},
        {"llm_outputs": json.dumps({"error": "timeout"})},
        {"llm_outputs": json.dumps({"response": "", "error": {"code": 500}})},
        {"llm_outputs": json.dumps({"ansel": {"error": "timeout"}})},
        {"llm_outputs": ERROR},
        {"analysis_markdown": f"# {ERROR}\n\n## Full Analysis\n\n"},
        {"analysis_markdown": f"# Ansel\n\n{'He saw the light. ' * 99}\n\n{ERROR}"},
        {"file": f"# Ansel\n\n## Full Analysis\n\n{ERROR}"},
    ],
)
def test_an_error_in_any_place_is_the_reason(
    columns: dict[str, str], folders: ApplicationFolders
) -> None:
    if text := columns.get("file"):
        (folders.analysis / MD).write_text(text)
    rest = {key: value for key, value in columns.items() if key != "file"}
    assert find_reason(folders, **rest) == "error_placeholder"
    unreadable = {"analysis_markdown": "| Light | soft |", "analysis_html": UNREADABLE_PAGE}
    assert find_reason(folders, **(unreadable | rest)) == "error_placeholder"


def test_an_error_in_one_place_does_not_refuse_a_critique_in_another(
    folders: ApplicationFolders, critique: Critique
) -> None:
    outcome = read(folders, error="timeout", llm_outputs='{"error": "timeout"}',
                   analysis_markdown=serialize_critique(critique))  # fmt: skip
    assert isinstance(outcome, tuple)
    assert outcome[0] == "analysis_markdown"


def test_the_error_column_explains_a_job_without_a_text(folders: ApplicationFolders) -> None:
    assert find_reason(folders, error="model not loaded") == "error_placeholder"
    assert find_reason(folders, error="None") == "no_text"
    assert find_reason(folders) == "no_text"
    prose = "The light is soft, and the boats are small."
    assert find_reason(folders, error="retried", analysis_markdown=prose) == "unscored"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("The light is soft.", '{"image_description": "A lake', "truncated"),
        ('{"image_description": "A lake', "The light is soft.", "truncated"),
        ("Okay, let me look at it.", UNREADABLE_PAGE, "thinking_only"),
        ('{"title": "A lake"}', "Okay, let me look at it.", "other_schema"),
        ("so " * 400, '{"title": "A lake"}', "looping"),
    ],
)
def test_of_several_rejections_the_most_telling_counts(
    first: str, second: str, reason: str, folders: ApplicationFolders
) -> None:
    outputs = json.dumps({"response": first})
    assert find_reason(folders, llm_outputs=outputs, analysis_markdown=second) == reason


def test_answers_under_one_key_are_ambiguous(
    folders: ApplicationFolders, critique: Critique
) -> None:
    text = json.dumps(serialize_critique(critique))
    other = text.replace("the ", "a ")
    for colon in (":", " : ", "\n:"):
        assert find_reason(
            folders, llm_outputs=f'{{"response"{colon}{text}, "response": {other}}}'
        ) == ("malformed_json")
        assert isinstance(
            read(folders, llm_outputs=f'{{"response"{colon}{text}, "response": {text}}}'), tuple
        )


def test_a_damaged_llm_outputs_has_its_true_reason(
    folders: ApplicationFolders, critique: Critique
) -> None:
    stored = json.dumps({"response": serialize_critique(critique)})
    assert find_reason(folders, llm_outputs=stored[:-300]) == "truncated"
    assert find_reason(folders, llm_outputs=repr(json.loads(stored))) == "malformed_json"


def test_of_a_job_of_several_advisors_only_named_texts_are_read(
    folders: ApplicationFolders, critique: Critique
) -> None:
    text, page = serialize_critique(critique), render_html_cards(critique)
    several = {"advisor": "ansel,weston"}
    unnamed = {"analysis_markdown": text, "llm_outputs": json.dumps({"response": text})}
    assert find_reason(folders, **several, **unnamed) == "advisor_absent"
    assert find_reason(folders, **several, llm_outputs='{"weston": "Error: x"}') == "advisor_absent"
    named = page.replace('data-advisor="sample"', 'data-advisor="ansel"')
    for column in ("analysis_markdown", "analysis_html"):
        outcome = read(folders, **several, **{column: named})
        assert isinstance(outcome, tuple)
        assert outcome[0] == column
