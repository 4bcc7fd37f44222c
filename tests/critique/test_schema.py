import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from pydantic import ValidationError

from mondrian.critique.schema import (
    DIMENSIONS,
    Critique,
    Dimension,
    json_schema,
    serialize_critique,
    validate_critique,
)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
scores = st.integers(0, 100).map(lambda tenth: tenth / 10)


@st.composite
def critiques(draw: st.DrawFn) -> Critique:
    return Critique(
        image_description=draw(texts),
        dimensions=tuple(
            Dimension(name=n, score=draw(scores), comment=draw(texts), recommendation=draw(texts))
            for n in DIMENSIONS
        ),
        overall_score=draw(scores),
        key_strengths=tuple(draw(st.lists(texts, min_size=1, max_size=5))),
        priority_improvements=tuple(draw(st.lists(texts, min_size=1, max_size=5))),
        technical_notes=draw(texts),
    )


@given(critiques())
def test_a_critique_survives_its_serialization(critique: Critique) -> None:
    assert validate_critique(serialize_critique(critique)) == critique


@given(critiques())
def test_the_grammar_of_the_schema_accepts_every_canonical_text(critique: Critique) -> None:
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(json_schema()))
    assert not matcher.get_error()
    tokens = tokenizer.tokenize_str(serialize_critique(critique))
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


def test_the_grammar_rejects_text_that_is_not_canonical(critique: Critique) -> None:
    tokenizer = LLTokenizer("byte")
    invalid = {
        "two spaces": serialize_critique(critique).replace('": ', '":  ', 1),
        "another dimension": serialize_critique(critique).replace("Lighting", "Light", 1),
        "eleven": serialize_critique(critique).replace('"score": ', '"score": 11', 1),
    }
    for name, text in invalid.items():
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(json_schema()))
        tokens = tokenizer.tokenize_str(text)
        assert matcher.try_consume_tokens(tokens) < len(tokens), name


def test_a_whole_score_is_written_without_a_fraction(critique: Critique) -> None:
    text = serialize_critique(critique)
    assert f'"score": {critique.scores()[0]:g},' in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"overall_score": 10.1},
        {"overall_score": -1},
        {"overall_score": "7"},
        {"overall_score": 7.25},
        {"overall_score": math.nan},
        {"key_strengths": []},
        {"image_description": ""},
        {"extra": 1},
        {"dimensions": []},
    ],
)
def test_an_invalid_critique_is_rejected(critique: Critique, change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        validate_critique(json.dumps(json.loads(serialize_critique(critique)) | change))


def test_the_dimensions_must_be_in_order(critique: Critique) -> None:
    value = json.loads(serialize_critique(critique))
    value["dimensions"].reverse()
    with pytest.raises(ValidationError, match="dimensions are Emotional Impact"):
        validate_critique(json.dumps(value))
