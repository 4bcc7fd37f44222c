import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.critique.parser import ParsedCritique
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.lists.list_entry import entry_to_job
from mondrian.data.quality.quality_flags import find_record_flags
from mondrian.sample.corruptions import EXAMPLE_SCORES, build_example_prompt
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.lists.list_files import make_chat_entries, read_critique, read_jobs, write_lines

LAYOUTS = tuple(make_chat_entries("", write_critique("ansel", draw_scene(5, 1))))
ANSWER = {"role": "assistant", "content": "{}"}


def ask(*parts: Any, **entry: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, ANSWER], **entry}


def image_url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_each_layout_gives_photo_critique_and_prompt(
    tmp_path: Path, critique: Critique, layout: str, name: str
) -> None:
    entry = make_chat_entries("2024/a b.jpg", critique)[layout]
    text = json.dumps([entry], indent=2) if name == "a.json" else json.dumps(entry)
    (tmp_path / name).write_text(text)
    (job,) = read_jobs(tmp_path / name)
    assert (job.filename, read_critique(job)) == ("2024/a b.jpg", critique)
    assert "Critique this photo." in job.prompt


def test_the_last_answer_is_the_critique(critique: Critique) -> None:
    entry = make_chat_entries("a.jpg", critique)["ms-swift"]
    draft = {"role": "assistant", "content": "A first look."}
    messages = [entry["messages"][0], draft, *entry["messages"], {"role": "user", "content": "Hm."}]
    assert read_critique(entry_to_job(entry | {"messages": messages}, "a", "jsonl")) == critique


def test_an_answer_may_be_an_object(critique: Critique) -> None:
    answer = {"role": "assistant", "content": json.loads(serialize_critique(critique))}
    job = entry_to_job({"messages": [answer], "image": "a.jpg"}, "a", "jsonl")
    assert read_critique(job) == critique


def test_prepared_rows_are_read_with_their_image_not_the_hash_of_the_photo(
    tmp_path: Path, critique: Critique
) -> None:
    row = {
        "messages": build_row_messages("You are Ansel Adams.", serialize_critique(critique)),
        "images": ["data/prepared/ansel/images/0a.jpg"],
        "id": "ansel-job-1",
        "photo": "0" * 64,
        "photo_group": "0" * 64,
        "prompt_hash": "1" * 64,
    }
    path = tmp_path / "training_data_ansel_train.json"
    path.write_text(json.dumps([row, row | {"id": "ansel-job-2"}]))
    first, second = read_jobs(path)
    assert (first.id, second.id) == ("ansel-job-1", "ansel-job-2")
    assert first.filename == "data/prepared/ansel/images/0a.jpg"
    assert read_critique(first) == critique
    assert first.text_from == "chat"


def test_the_example_in_a_chat_prompt_shows_template_scores(critique: Critique) -> None:
    dimensions = tuple(
        d.model_copy(update={"score": float(score)})
        for d, score in zip(critique.dimensions, EXAMPLE_SCORES, strict=True)
    )
    copied = critique.model_copy(update={"dimensions": dimensions})
    for text, expected in ((copied, True), (critique, False)):
        entry = make_chat_entries("a.jpg", text)["OpenAI"]
        entry["messages"][0]["content"] = build_example_prompt()
        job = entry_to_job(entry, "a", "jsonl")
        flags = find_record_flags(job, ParsedCritique(read_critique(job), "json"), 10.0)
        assert ("template_scores" in flags) == expected


@pytest.mark.parametrize(
    ("entry", "reason", "detail"),
    [
        (ask(image_url("data:image/jpeg;base64,/9j/4AAQ")), "image_missing", "as a data URI; save"),
        (ask(image_url("DATA:image/png;base64,iVBO")), "image_missing", "as a data URI; save"),
        (ask(image_url("https://a.org/b.jpg")), "image_missing", "a web address (https://a.org/b"),
        (ask({"type": "image", "url": "s3://a/b.jpg"}), "image_missing", "a web address (s3://"),
        (ask(images=["http://a.org/b.jpg"]), "image_missing", "a web address (http://a.org/b.jpg"),
        (
            ask(images=[{"bytes": "/9j/", "path": None}]),
            "image_missing",
            "the photo is in the row;",
        ),
        (
            ask({"type": "image", "source": {"type": "base64", "data": "/9j/"}}),
            "image_missing",
            "the photo is in the row;",
        ),
        (ask(images=["a.jpg", "b.jpg"]), "image_ambiguous", "2 images in one row (a.jpg, b.jpg)"),
        (ask(image_url("a.jpg"), image_url("b.jpg")), "image_ambiguous", "2 images in one row"),
        ({"photo": "https://a.org/b.jpg", "text": "x"}, "image_missing", "a web address"),
        ({"images": ["a.jpg", "b.jpg"], "output": "x"}, "image_ambiguous", "2 images in one row"),
    ],
)
def test_an_image_that_is_no_single_file_is_refused_by_name(
    entry: dict[str, Any], reason: str, detail: str
) -> None:
    rejection = entry_to_job(entry, "a", "jsonl").rejection
    assert isinstance(rejection, Rejection)
    assert str(rejection.reason) == reason
    assert detail in rejection.detail


@pytest.mark.parametrize(
    ("entry", "filename"),
    [
        (ask(image_url("file:///photos/a%20b.jpg")), "/photos/a b.jpg"),
        (ask(image_url("file:///photos/100%.jpg")), "/photos/100%.jpg"),
        (ask(image_url("photos/a%20b.jpg")), "photos/a%20b.jpg"),
        (ask(image_url("C:\\photos\\a.jpg")), "C:\\photos\\a.jpg"),
        (ask({"type": "image"}, images=["a.jpg"]), "a.jpg"),
        (ask({"type": "image", "image": "a.jpg"}, images=["a.jpg"]), "a.jpg"),
        (ask({"type": "input_image", "image_url": "a.jpg"}), "a.jpg"),
        (ask(images=["a.jpg", "a.jpg"]), "a.jpg"),
        (ask(image="a.jpg"), "a.jpg"),
        (ask(filename="a.jpg"), "a.jpg"),
        (ask(images=[]), ""),
        (ask(), ""),
    ],
)
def test_the_path_of_the_one_image_is_taken(entry: dict[str, Any], filename: str) -> None:
    job = entry_to_job(entry, "a", "jsonl")
    assert (job.filename, job.rejection) == (filename, None)


def test_a_row_with_a_photo_of_megabytes_as_data_uri_is_named(tmp_path: Path) -> None:
    entry = ask(image_url("data:image/jpeg;base64," + "A" * 2_000_000))
    path = write_lines(tmp_path / "a.jsonl", entry, ask(image_url("a.jpg")))
    (tmp_path / "a.json").write_text(json.dumps([entry, ask(image_url("a.jpg"))]))
    for name in ("a.jsonl", "a.json"):
        first, second = read_jobs(path.with_name(name))
        assert first.rejection is not None
        assert str(first.rejection.reason) == "image_missing"
        assert "data URI" in first.rejection.detail
        assert second.filename == "a.jpg"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "messages role from content value images image image_url type url text prompt "
                "completion conversations path source data id advisor Photo".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from("messages conversations images image id".split()), json_values)
)
def test_any_entry_is_a_job(entry: dict[str, Any]) -> None:
    job = entry_to_job(entry, "line-000001", "jsonl")
    assert job.id
    assert isinstance(job.text, str)
    assert isinstance(job.filename, str)
