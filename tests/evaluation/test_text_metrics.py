import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.evaluation.text_metrics import (
    chrf,
    dominant_script,
    hash_sentences,
    repetition,
    specificity,
)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The light is soft and warm.", "The light is warm, and it is soft.", 0.575909),
        (
            "Deep shadows hold the ridge.",
            "Shadows, deep and cold, hold a long ridge in the valley.",
            0.243898,
        ),
        ("ab", "abcd", 0.471698),
        ("abc", "xyz", 0.0),
        ("a", "a", 1.0),
        ("", "a", 0.0),
    ],
)
def test_chrf_equals_sacrebleu(text: str, reference: str, expected: float) -> None:
    assert chrf([text], [reference])[0, 0] == pytest.approx(expected, abs=1e-6)  # sacrebleu 2.6


@given(st.text(max_size=60), st.text(max_size=60))
def test_chrf_is_between_0_and_1(text: str, reference: str) -> None:
    assert 0 <= chrf([text], [reference])[0, 0] <= 1 + 1e-9
    if "".join(text.split()):
        assert chrf([text], [text])[0, 0] == pytest.approx(1)


def test_chrf_of_many_texts_is_that_of_each_pair() -> None:
    texts, references = ["the the cat", "", "a cat"], ["the cat sat", "catcat"]
    expected = [[chrf([a], [b])[0, 0] for b in references] for a in texts]
    assert chrf(texts, references) == pytest.approx(np.array(expected))
    assert expected[0][0] > expected[2][0] > expected[1][0] == 0


def test_a_phrase_that_occurs_twice_is_a_repetition() -> None:
    assert repetition("one two three four five six") == 0
    assert repetition("so it goes on " * 8) > 0.8
    assert repetition("short") == 0


def test_words_of_one_text_only_are_specific() -> None:
    same, other = "a quiet frame with even light", "a crooked mast over green water"
    shares = specificity([same, same, same, other])
    assert shares[0] < 0.2 < 0.7 < shares[3]
    assert specificity([""]) == [0.0]


def test_sentences_are_recognized_in_any_case() -> None:
    sentence = "The Ridge holds its deep shadows into the valley."
    assert hash_sentences([sentence]) == hash_sentences([f"Before. {sentence.lower()} After!"])
    assert hash_sentences(["Too short to count."]) == set()


def test_scripts_are_distinguished() -> None:
    assert dominant_script("Hello there") == dominant_script("Grüße") != dominant_script("光线很美")
    assert dominant_script("123") == ""
