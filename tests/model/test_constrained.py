"""Constrained generation: the schema is met whatever the model says, and within the limit."""

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
from mondrian.model.constrained import CritiqueGrammar
from mondrian.model.sampling import mask_logits, sample
from tests.conftest import ROOT

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), min_size=1, max_size=40)
SHORT = st.lists(WORDS, min_size=1, max_size=5)
SCORE = st.integers(0, 100).map(lambda n: n / 10)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    load: Any = AutoTokenizer.from_pretrained
    return load(ROOT / "models/base/mondrian-tiny")


@pytest.fixture(scope="module")
def form(tokenizer: Any) -> CritiqueGrammar:
    return CritiqueGrammar(tokenizer, 1280, 4000)


@pytest.fixture(scope="module")
def least(tokenizer: Any) -> int:
    """The shortest limit that a critique is sure to fit."""
    return CritiqueGrammar(tokenizer, 1280, 4000).after[0][0]


def ids_of(form: CritiqueGrammar, text: str) -> list[int]:
    return list(form.tokens.tokenize_str(text))


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_any_critique_is_let_through_and_followed(
    form: CritiqueGrammar, data: st.DataObject
) -> None:
    d = data.draw
    parts = [(d(SCORE), d(WORDS), d(WORDS)) for _ in DIMENSIONS]
    told = {
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
    guide = form.create_state()
    left = ids_of(form, serialize_critique(Critique.model_validate_json(json.dumps(told))))
    left = left[len(guide.forced) :]
    while left:
        guide.accept_token(left[0])
        assert guide.forced == left[1 : 1 + len(guide.forced)]
        left = left[1 + len(guide.forced) :]
    assert guide.ended
    assert guide._keys == 2 + 4 * 7 + 4
    assert not guide._inside


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["any", "never closes", "escapes", "half characters"])
def test_an_answer_ends_in_form_within_the_least_limit(
    tokenizer: Any, least: int, kind: str, seed: int
) -> None:
    form = CritiqueGrammar(tokenizer, 1280, least)
    favours: dict[str, Any] = {
        "any": lambda t: True,
        "never closes": lambda t: b'"' not in form.text(t),
        "escapes": lambda t: form.text(t)[-1:] == b"\\",
        "half characters": lambda t: form.text(t)[:1] >= b"\xc0",
    }
    guide, draw = form.create_state(), np.random.default_rng(seed)
    out = list(guide.forced)
    while not guide.ended:
        may = np.flatnonzero(np.unpackbits(guide.mask.view(np.uint8), bitorder="little"))
        liked = [t for t in may if favours[kind](int(t))] or list(may)
        token = int(draw.choice(liked))
        guide.accept_token(token)
        out += [token, *guide.forced]
    assert len(out) <= least
    assert is_schema_valid(form.tokens.decode_str(out)), form.tokens.decode_str(out)


def test_a_limit_that_no_critique_fits_is_named(tokenizer: Any, least: int) -> None:
    with pytest.raises(
        EvaluationError, match=f"max_new_tokens is 100; a critique may need {least}"
    ):
        CritiqueGrammar(tokenizer, 1280, 100)


def test_masks_leave_just_their_bits() -> None:
    logits = mx.array(np.zeros((2, 70), np.float32))
    masks = [np.array([1 << 5, 0, 1], np.int32), np.array([0, -(1 << 31), 0], np.int32)]
    found = np.array(mask_logits(logits, masks))
    assert [np.flatnonzero(row == 0).tolist() for row in found] == [[5, 64], [63]]


def test_draws_follow_the_softmax_and_never_what_is_not_allowed() -> None:
    logits = mx.array([[log(0.5), -inf, log(0.3), log(0.2)]])
    dice = (np.arange(1000) + 0.5) / 1000
    found = np.array(sample(mx.repeat(logits, 1000, 0), 1.0, list(dice)))
    assert np.bincount(found, minlength=4).tolist() == [500, 0, 300, 200]
    told = [sample(logits, heat, [dice]).tolist() for heat, dice in ((1.0, 1.0), (0.0, 0.9))]
    assert told == [[3], [0]]
