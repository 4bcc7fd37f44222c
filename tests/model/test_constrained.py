"""Constrained decoding: completions are schema-valid and end within the limit, for any logits."""

import json
from math import inf, log
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mondrian.core.errors import EvaluationError
from mondrian.critique.schema import DIMENSIONS, Critique, is_schema_valid, serialize_critique
from mondrian.model.batch_generator import mask_logits, sample
from mondrian.model.constrained import CritiqueGrammar, GrammarState, count_passes
from tests.conftest import ROOT

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), min_size=1, max_size=40)
SHORT = st.lists(WORDS, min_size=1, max_size=5)
SCORE = st.integers(0, 100).map(lambda n: n / 10)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    load: Any = AutoTokenizer.from_pretrained
    return load(ROOT / "models/base/mondrian-tiny")


@pytest.fixture(scope="module")
def grammar(tokenizer: Any) -> CritiqueGrammar:
    return CritiqueGrammar(tokenizer, 1280, 4000)


@pytest.fixture(scope="module")
def min_limit(tokenizer: Any) -> int:
    """Return the shortest limit that a critique always fits."""
    return CritiqueGrammar(tokenizer, 1280, 4000).needed_after[0][0]


def tokenize(grammar: CritiqueGrammar, text: str) -> list[int]:
    return list(grammar.tokens.tokenize_str(text))


@given(st.data())
@settings(max_examples=80)
def test_any_critique_is_accepted(grammar: CritiqueGrammar, data: st.DataObject) -> None:
    d = data.draw
    parts = [(d(SCORE), d(WORDS), d(WORDS)) for _ in DIMENSIONS]
    critique = {
        "image_description": d(WORDS),
        "dimensions": [
            {"name": name, "score": s, "comment": c, "recommendation": r}
            for name, (s, c, r) in zip(DIMENSIONS, parts, strict=True)
        ],
        "overall_score": d(SCORE),
        "key_strengths": d(SHORT),
        "priority_improvements": d(SHORT),
        "technical_notes": d(WORDS),
    }
    state = GrammarState(grammar)
    text = serialize_critique(Critique.model_validate_json(json.dumps(critique)))
    ids = tokenize(grammar, text)[len(state.forced) :]
    while ids:
        state.accept_token(ids[0])
        assert state.forced == ids[1 : 1 + len(state.forced)]
        ids = ids[1 + len(state.forced) :]
    assert state.ended
    assert state._num_keys == 2 + 4 * 7 + 4
    assert not state._in_text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["any", "never closes", "escapes", "half characters"])
def test_a_completion_is_schema_valid_within_the_shortest_limit(
    tokenizer: Any, min_limit: int, kind: str, seed: int
) -> None:
    grammar = CritiqueGrammar(tokenizer, 1280, min_limit)
    preferences: dict[str, Any] = {
        "any": lambda t: True,
        "never closes": lambda t: b'"' not in grammar.token_bytes(t),
        "escapes": lambda t: grammar.token_bytes(t)[-1:] == b"\\",
        "half characters": lambda t: grammar.token_bytes(t)[:1] >= b"\xc0",
    }
    state, rng = GrammarState(grammar), np.random.default_rng(seed)
    ids = list(state.forced)
    while not state.ended:
        allowed = np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little"))
        preferred = [t for t in allowed if preferences[kind](int(t))] or list(allowed)
        token = int(rng.choice(preferred))
        state.accept_token(token)
        ids += [token, *state.forced]
    assert len(ids) <= min_limit
    assert is_schema_valid(grammar.tokens.decode_str(ids)), grammar.tokens.decode_str(ids)


def test_a_limit_that_no_critique_fits_is_refused(tokenizer: Any, min_limit: int) -> None:
    message = f"max_new_tokens is 100; raise it: a critique may need {min_limit}"
    with pytest.raises(EvaluationError, match=message):
        CritiqueGrammar(tokenizer, 1280, 100)


def test_a_mask_leaves_only_the_logits_of_its_bits() -> None:
    logits = mx.array(np.zeros((2, 70), np.float32))
    masks = [np.array([1 << 5, 0, 1], np.int32), np.array([0, -(1 << 31), 0], np.int32)]
    masked = np.array(mask_logits(logits, masks))
    assert [np.flatnonzero(row == 0).tolist() for row in masked] == [[5, 64], [63]]


def test_samples_follow_the_softmax_and_are_never_masked_tokens() -> None:
    logits = mx.array([[log(0.5), -inf, log(0.3), log(0.2)]])
    uniforms = (np.arange(1000) + 0.5) / 1000
    tokens = np.array(sample(mx.repeat(logits, 1000, 0), 1.0, list(uniforms)))
    assert np.bincount(tokens, minlength=4).tolist() == [500, 0, 300, 200]
    assert sample(logits, 1.0, [1.0]).tolist() == [3]


def test_tokens_that_the_grammar_allows_are_counted_in_passes_and_others_are_not(
    grammar: CritiqueGrammar, critique: Critique
) -> None:
    """A raw answer that constrained decoding would generate need not be generated again."""
    text = serialize_critique(critique)
    ids, state = tokenize(grammar, text), GrammarState(grammar)
    position, passes = len(state.forced), 0
    while not state.ended:
        state.accept_token(ids[position])
        position, passes = position + 1 + len(state.forced), passes + 1
    assert count_passes(grammar, ids) == passes < len(ids)
    assert count_passes(grammar, ids[:-1]) is None
    assert count_passes(grammar, [*ids, ids[-1]]) is None
    for other in (json.dumps(json.loads(text), indent=1), text.replace("score", "skore")):
        assert count_passes(grammar, tokenize(grammar, other)) is None
