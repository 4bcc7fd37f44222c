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
    ("text", "reference", "wanted"),
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
def test_chrf_is_that_of_sacrebleu(text: str, reference: str, wanted: float) -> None:
    assert chrf(text, reference) == pytest.approx(wanted, abs=1e-6)  # sacrebleu 2.6


@given(st.text(max_size=60), st.text(max_size=60))
def test_chrf_lies_between_nothing_and_all(text: str, reference: str) -> None:
    assert 0 <= chrf(text, reference) <= 1 + 1e-9
    if "".join(text.split()):
        assert chrf(text, text) == pytest.approx(1)


def test_a_phrase_that_comes_again_is_a_repetition() -> None:
    assert repetition("one two three four five six") == 0
    assert repetition("so it goes on " * 8) > 0.8
    assert repetition("short") == 0


def test_words_of_one_text_alone_are_specific() -> None:
    same, other = "a quiet frame with even light", "a crooked mast over green water"
    told = specificity([same, same, same, other])
    assert told[0] < 0.2 < 0.7 < told[3]
    assert specificity([""]) == [0.0]


def test_sentences_are_known_again_whatever_their_case() -> None:
    long = "The Ridge holds its deep shadows into the valley."
    assert hash_sentences([long]) == hash_sentences([f"Before. {long.lower()} After!"])
    assert hash_sentences(["Too short to count."]) == set()


def test_writing_is_told_apart() -> None:
    assert dominant_script("Hello there") == dominant_script("Grüße") != dominant_script("光线很美")
    assert dominant_script("123") == ""
