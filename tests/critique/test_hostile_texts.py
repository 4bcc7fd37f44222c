import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, serialize_critique
from tests.critique.hostile_texts import CRITIQUES, HostileText, build_texts

TEXTS = build_texts()
_DERIVED = ("key_strengths", "priority_improvements", "technical_notes")


def test_the_corpus_is_large_and_no_two_texts_have_one_name() -> None:
    assert len({item.name for item in TEXTS}) == len(TEXTS) > 300


@pytest.mark.parametrize("item", TEXTS, ids=lambda item: item.name)
def test_every_text_has_its_outcome(item: HostileText) -> None:
    result = parse_critique(item.text, "ansel", item.prompts)
    if item.critique is None:
        assert isinstance(result, Rejection), result
        assert str(result.reason) == item.reason, result
        assert result.detail
        assert len(result.detail) <= 200
        return
    assert isinstance(result, ParsedCritique), result
    assert result.critique == (_derive(item.critique) if item.derived else item.critique)
    summaries = [r for r in result.repairs if r.startswith("summary")]
    assert len(summaries) == (len(_DERIVED) if item.derived else 0)


def _derive(critique: Critique) -> Critique:
    """Return the critique that the same words give without strengths, priorities and notes."""
    value = json.loads(serialize_critique(critique))
    for key in _DERIVED:
        del value[key]
    result = parse_critique(json.dumps(value))
    assert isinstance(result, ParsedCritique)
    return result.critique


@pytest.mark.parametrize("item", [t for t in TEXTS if t.critique], ids=lambda item: item.name)
def test_a_critique_that_was_read_is_read_again_unchanged(item: HostileText) -> None:
    first = parse_critique(item.text, "ansel")
    assert isinstance(first, ParsedCritique)
    second = parse_critique(serialize_critique(first.critique), "ansel")
    assert second == ParsedCritique(first.critique, "json")


_PIECES = st.sampled_from(
    [
        item.text[start : start + 200]
        for item in TEXTS
        for start in (0, 300, 900)
        if item.text[start:]
    ]
)
_MARKS = st.sampled_from(
    ["<think>", "</think>", "{", "}", '"', "```", "<p>", "\ufffd", "Error: ", "\n"]
)


@settings(max_examples=150)
@given(st.lists(st.one_of(_PIECES, _MARKS, st.text(max_size=20)), max_size=12).map("".join))
def test_pieces_of_any_texts_give_a_critique_that_is_stable_or_a_reason(text: str) -> None:
    _check_outcome(text)


@settings(max_examples=150)
@given(st.data())
def test_a_text_with_any_change_gives_a_critique_that_is_stable_or_a_reason(
    data: st.DataObject,
) -> None:
    text = data.draw(st.sampled_from([item for item in TEXTS if item.critique])).text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    _check_outcome(text[:start] + data.draw(st.one_of(_MARKS, st.text(max_size=9))) + text[end:])


def _check_outcome(text: str) -> None:
    result = parse_critique(text, "ansel")
    if isinstance(result, Rejection):
        assert result.detail
    else:
        canonical = serialize_critique(result.critique)
        assert parse_critique(canonical) == ParsedCritique(result.critique, "json")
        assert "\ufffd" not in canonical


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60)


@settings(max_examples=200)
@given(_TEXT, _TEXT, st.integers(0, 6))
def test_any_words_come_out_as_they_were_stored_or_with_a_reason(
    comment: str, advice: str, index: int
) -> None:
    value = json.loads(serialize_critique(CRITIQUES["english"]))
    value["dimensions"][index] |= {"comment": comment, "recommendation": advice}
    result = parse_critique(f"# Ansel\n```json\n{json.dumps(value)}\n```")
    if isinstance(result, ParsedCritique) and "mojibake" not in result.repairs:
        dimension = result.critique.dimensions[index]
        assert (dimension.comment, dimension.recommendation) == (comment, advice)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "(8/10)",
        "<think>",
        "</think>{",
        "<script>",
        "<!--",
        "Error: <>",
        "Failed to ",
        "Wait, let me ",
        "{'dimensions': ",
        "{“dimensions”: ",
        '{"a":1}',
        '{"a":"\\"dimensions',
        '{"x": [{"a": 1, "a": 2}], "dimensions": 1}',
        "&quot;{",
        "â€™",
        "<h3>Lighting</h3><p>a Recommendation: b",
        "<h3>Composition 8/10</h3>",
        "<h2>Overall Grade</h2><p>7/10",
        "x " * 999 + "\n",
    ],
)
def test_a_megabyte_of_a_hostile_unit_is_parsed_in_seconds(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    assert isinstance(parse_critique(text, "ansel"), Rejection)
    assert time.process_time() - started < 10  # under 2 on an idle core
