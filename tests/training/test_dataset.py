import re
from typing import Any

import pytest

from mondrian.core.errors import TrainingError
from mondrian.core.params import Params
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.dataset import build_examples, token_weights
from tests.training.unscored_rows import without_scores


def test_digits_of_scores_count_more_and_derived_parts_not_at_all(critique: Critique) -> None:
    text = serialize_critique(critique)
    tokens = [match.span() for match in re.finditer(r"\w+|\W", text)] + [(len(text), len(text) + 9)]
    plain = token_weights(text, tokens, [], 10.0)
    derived = token_weights(text, tokens, ["key_strengths", "technical_notes"], 10.0)
    words = [text[a:b] for a, b in tokens]
    digits = [word for word, weight in zip(words, plain, strict=True) if weight == 10.0]
    assert [float(n) for n in digits[:7]] == list(critique.scores())
    assert set(plain) == {1.0, 10.0}
    ignored = "".join(word for word, weight in zip(words, derived, strict=True) if not weight)
    assert all(strength in ignored for strength in critique.key_strengths)
    assert critique.technical_notes in ignored
    assert "priority" not in ignored
    assert derived[-1] == 1.0  # the end token is always trained
    remaining = [p for p, d in zip(plain, derived, strict=True) if d]
    assert remaining == [d for d in derived if d]


def test_without_scores_exactly_their_digits_and_the_comma_after_them_are_not_trained(
    critique: Critique,
) -> None:
    text = serialize_critique(critique.with_filler_scores())
    tokens = [match.span() for match in re.finditer(r"\w+|\W", text)] + [(len(text), len(text) + 9)]
    weights = token_weights(text, tokens, [], 0.0)
    assert set(weights) == {0.0, 1.0}
    ignored = "".join(
        text[a:b] if not weight else "\0" for (a, b), weight in zip(tokens, weights, strict=True)
    )
    assert [part for part in ignored.split("\0") if part] == ["5,"] * 8


@pytest.fixture
def cache(base_vlm: Any) -> FeatureCache:
    return FeatureCache(base_vlm, None, 0)


def test_a_score_counts_more_than_a_word(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    settings = params.train.model_copy(update={"score_weight": 5.0})
    example = build_examples(rows[:1], settings, cache)[0]
    completion = zip(example.ids[example.start :], example.weights, strict=True)
    decode = base_vlm.processor.tokenizer.decode
    digits = [decode([token]) for token, weight in completion if weight == 5]
    critique = rows[0].reference_critique()
    scores = "".join(f"{score:g}" for score in (*critique.scores(), critique.overall_score))
    assert "".join(digits) == scores


def test_the_model_is_not_trained_on_the_digits_of_a_row_without_scores(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    scored, text_only = build_examples([rows[0], without_scores(rows[0])], params.train, cache)
    decode = base_vlm.processor.tokenizer.decode
    completion = zip(text_only.ids[text_only.start :], text_only.weights, strict=True)
    ignored = [decode([token]) for token, weight in completion if not weight]
    assert "".join(ignored) == "5," * 8
    assert set(text_only.weights) == {0.0, 1.0}
    assert sum(text_only.weights) == len(text_only.weights) - len(ignored)
    assert text_only.scores == ()
    assert scored.scores == rows[0].reference_critique().scores()


def test_the_completion_ends_with_the_end_token(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    example = build_examples(rows[:1], params.train, cache)[0]
    tokenizer = base_vlm.processor.tokenizer
    assert example.ids[-1] == tokenizer.eos_token_id
    completion = tokenizer.decode(example.ids[example.start : -1])
    assert completion == rows[0].messages[-1]["content"]
    assert tokenizer.decode(example.ids[: example.start]).endswith("assistant\n")


def test_a_row_that_is_too_long_is_named(
    rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    settings = params.train.model_copy(update={"max_seq_length": 100})
    with pytest.raises(TrainingError, match=r"2 rows have more .*ansel/0 .*, ansel/1"):
        build_examples(rows[:2], settings, cache)
