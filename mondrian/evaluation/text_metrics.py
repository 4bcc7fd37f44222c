"""Text metrics of answers: chrF, repetition, specificity, copied sentences, script.

docs/evaluation.md gives the formula and source of each metric.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

_CHRF_ORDERS, _CHRF_BETA = 6, 2.0
_PHRASE_WORDS = 4
_MIN_SENTENCE_WORDS = 8  # shorter sentences do not count as copied


def compute_text_metrics(
    texts: Sequence[str], references: Sequence[str], copied: Sequence[bool]
) -> dict[str, float]:
    """Return the means over the answers of an arm."""
    pairs = list(zip(texts, references, strict=True))
    values: dict[str, Sequence[float]] = {
        "specificity": specificity(texts),
        "repetition": [repetition(text) for text in texts],
        "repeated_across": cross_text_repetition(texts),
        "copied": copied,
        "right_language": [dominant_script(a) == dominant_script(b) for a, b in pairs],
        "length": [len(split_words(a)) / max(1, len(split_words(b))) for a, b in pairs],
    }
    return {name: round(float(np.mean(v)), 4) for name, v in values.items()}


def chrf(text: str, reference: str) -> float:
    """Return chrF of two texts, 0 to 1 (Popović 2015): F2 over character n-grams up to 6.

    White space is left out, as in the paper's tool. Orders that either text lacks do not count.
    """
    chars, reference_chars = ("".join(part.split()) for part in (text, reference))
    precisions, recalls = [], []
    for order in range(1, _CHRF_ORDERS + 1):
        a, b = _char_ngrams(chars, order), _char_ngrams(reference_chars, order)
        if a and b:
            common = sum((a & b).values())
            precisions.append(common / sum(a.values()))
            recalls.append(common / sum(b.values()))
    if not any(precisions):
        return 0.0
    precision, recall = (sum(x) / len(x) for x in (precisions, recalls))
    return (1 + _CHRF_BETA**2) * precision * recall / (_CHRF_BETA**2 * precision + recall)


def _char_ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def split_words(text: str) -> list[str]:
    """Return the words in lower case."""
    return re.findall(r"\w+", text.lower())


def _phrases(text: str) -> list[tuple[str, ...]]:
    words = split_words(text)
    count = len(words) - _PHRASE_WORDS + 1
    return [tuple(words[i : i + _PHRASE_WORDS]) for i in range(count)]


def repetition(text: str) -> float:
    """Return the share of four-word phrases that occurred earlier in the text."""
    phrases = _phrases(text)
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def cross_text_repetition(texts: Sequence[str]) -> list[float]:
    """Return for each text the share of its distinct phrases that another text contains."""
    phrase_sets = [set(_phrases(text)) for text in texts]
    counts = Counter(phrase for phrases in phrase_sets for phrase in phrases)
    return [
        sum(counts[phrase] > 1 for phrase in phrases) / len(phrases) if phrases else 0.0
        for phrases in phrase_sets
    ]


def specificity(texts: Sequence[str]) -> list[float]:
    """Return for each text the share of its distinct words that under half of the texts use."""
    word_sets = [set(split_words(text)) for text in texts]
    counts = Counter(word for word_set in word_sets for word in word_set)
    rare = {word for word, count in counts.items() if count < len(texts) / 2}
    return [len(word_set & rare) / len(word_set) if word_set else 0.0 for word_set in word_sets]


def hash_sentences(texts: Iterable[str]) -> set[str]:
    """Return hashes of the sentences of at least eight words, compared as lower-case words."""
    sentences = (split_words(part) for text in texts for part in re.split(r"[.!?]+\s", text + " "))
    return {
        sha256(" ".join(sentence).encode()).hexdigest()[:16]
        for sentence in sentences
        if len(sentence) >= _MIN_SENTENCE_WORDS
    }


def dominant_script(text: str) -> str:
    """Return the script of most letters: the first word of their Unicode names."""
    letters = [char for char in text if char.isalpha()][:400]
    scripts = Counter(unicodedata.name(char, "?").split()[0] for char in letters)
    return scripts.most_common(1)[0][0] if scripts else ""
