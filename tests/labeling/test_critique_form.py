import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.params import LinkParams, Params
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.labeling.critique_form import (
    FIELDS,
    OPTIONAL,
    REQUIRED,
    SCORES,
    CritiqueForm,
    find_fault,
    is_form_shaped,
)


@pytest.fixture
def link(params: Params) -> LinkParams:
    return params.link


@pytest.fixture
def form(critique: Critique) -> CritiqueForm:
    return CritiqueForm.from_critique(json.loads(serialize_critique(critique)))


def change(form: CritiqueForm, **fields: str) -> CritiqueForm:
    return CritiqueForm.from_input({**form.fields, **fields})


def test_a_critique_comes_back_as_it_was(form: CritiqueForm, critique: Critique) -> None:
    assert set(form.fields) | {"overall_score"} == set(FIELDS)
    assert form.find_errors() == {}
    assert form.to_critique() == json.loads(serialize_critique(critique))


def test_dimensions_in_another_order_keep_their_scores(
    form: CritiqueForm, critique: Critique
) -> None:
    stored = json.loads(serialize_critique(critique))
    stored["dimensions"].reverse()
    assert is_form_shaped(stored)
    assert CritiqueForm.from_critique(stored) == form


@pytest.mark.parametrize(
    ("changes", "is_shaped"),
    [
        ({"technical_notes": None, "key_strengths": "one"}, True),
        ({"overall_score": "7,5"}, True),
        ({"my_note": "of a person"}, False),
        ({"technical_notes": {"f": 8}}, False),
        ({"key_strengths": [["a"]]}, False),
        ({"key_strengths": ["one\ntwo"]}, False),
        ({"dimensions": [{"name": "Composition"}, {"name": "Composition"}]}, False),
        ({"dimensions": [{"name": "Mood", "score": 5}]}, False),
        ({"dimensions": [{"score": 5}]}, False),
        ({"dimensions": [{"name": "Lighting", "grade": 5}]}, False),
        ({"dimensions": {"Lighting": 5}}, False),
    ],
)
def test_a_critique_with_more_than_the_form_shows_is_recognized(
    critique: Critique, changes: dict[str, Any], is_shaped: bool
) -> None:
    stored = json.loads(serialize_critique(critique)) | changes
    assert is_form_shaped(stored) == is_shaped
    if is_shaped:
        assert "None" not in CritiqueForm.from_critique(stored).fields.values()


@given(st.dictionaries(st.sampled_from([*FIELDS, "x"]), st.text(st.characters())))
def test_any_form_can_be_stored(values: dict[str, str]) -> None:
    form = CritiqueForm.from_input(values)
    "".join(form.fields.values()).encode()
    form.find_errors()
    assert form.num_missing() == len(set(REQUIRED) - set(form.fields))


def test_optional_parts_are_left_out_and_link_makes_them(
    form: CritiqueForm, link: LinkParams
) -> None:
    required = change(form, **dict.fromkeys(OPTIONAL, ""))
    assert required.num_missing() == 0
    stored = required.to_critique()
    assert set(stored) == {"image_description", "dimensions", "overall_score"}
    assert stored["overall_score"] == required.mean()
    assert find_fault(stored, link) == ""
    parsed = parse_critique(json.dumps(stored))
    assert isinstance(parsed, ParsedCritique)
    assert parsed.critique.key_strengths


def test_an_overall_score_that_is_the_mean_follows_the_scores(form: CritiqueForm) -> None:
    stored = change(form, overall_score="").to_critique()
    again = CritiqueForm.from_critique(stored)
    assert "overall_score" not in again.fields
    higher = change(again, **dict.fromkeys(SCORES, "9"))
    assert higher.to_critique()["overall_score"] == 9
    own = CritiqueForm.from_critique(stored | {"overall_score": stored["overall_score"] - 0.4})
    assert "overall_score" in own.fields


def test_every_required_field_is_named_if_it_is_empty() -> None:
    errors = CritiqueForm.from_input({"image_description": " ", "technical_notes": "f/8"})
    assert set(errors.find_errors()) == set(REQUIRED)
    assert errors.num_missing() == 22


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dimensions.2.score", "11", "is 11; it must be from 0 to 10"),
        ("dimensions.2.score", "7.25", "is 7.25; it must be"),
        ("dimensions.2.score", "good", "is good; it must be"),
        ("overall_score", "nan", "is nan; it must be"),
        ("image_description", "x" * 1201, "has 1,201 characters; at most 1,200"),
        ("key_strengths", "a\n" * 6, "has 6 lines; at most 5"),
        ("priority_improvements", "x" * 301, "has a line of 301 characters; at most 300"),
    ],
)
def test_a_wrong_value_is_named(form: CritiqueForm, name: str, text: str, message: str) -> None:
    ((wrong, found),) = change(form, **{name: text}).find_errors().items()
    assert wrong == name
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_description": "TBD"}, "a dimension is missing or incomplete"),
        ({"overall_score": "0.1"}, "the overall score is far from the mean"),
        (
            {f"dimensions.{i}.recommendation": "Crop it." for i in range(7)},
            "one recommendation in several dimensions",
        ),
        ({"image_description": "Горы и озеро " * 90}, "most letters are not Latin"),
    ],
)
def test_what_link_would_reject_is_not_finished(
    form: CritiqueForm, link: LinkParams, fields: dict[str, str], message: str
) -> None:
    changed = change(form, **fields)
    assert changed.find_errors() == {}
    assert message in find_fault(changed.to_critique(), link)


def test_a_draft_fills_in_what_is_empty_only(form: CritiqueForm) -> None:
    own = CritiqueForm.from_input({"image_description": "mine", "dimensions.0.score": "3"})
    filled = own.fill_in(form)
    assert {**form.fields, **own.fields} == filled.fields


@given(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=40)))
def test_any_input_is_kept_or_explained(values: dict[str, str]) -> None:
    form = CritiqueForm.from_input(values)
    assert CritiqueForm.from_input(form.fields) == form
    errors = form.find_errors()
    assert all(errors.values())
    if not errors:
        form.to_critique()


@given(st.dictionaries(st.sampled_from(FIELDS), st.none() | st.integers() | st.lists(st.text())))
def test_a_damaged_critique_of_a_list_has_a_form(stored: dict[str, Any]) -> None:
    errors = CritiqueForm.from_critique({**stored, "dimensions": [{}]}).find_errors()
    assert all(errors.values())
    assert {name for name in REQUIRED if name.startswith("dimensions.0.")} <= errors.keys()
