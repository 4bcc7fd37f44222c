"""Text metrics of answers: chrF, repetition, specificity, copied sentences, script.

docs/evaluation.md gives the formula and source of each metric.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mondrian.core.fields import FloatArray

IntArray = NDArray[np.int64]
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


def chrf(texts: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Return chrF of all pairs, 0 to 1 (Popović 2015): F2 over character n-grams up to 6.

    White space is left out, as in the paper's tool. Orders that either text lacks do not count.
    The result is (texts, references).
    """
    precision, recall, orders = np.zeros((3, len(texts), len(references)))
    for ngrams in _ngram_matrices([*texts, *references]):
        a, b = ngrams[: len(texts)], ngrams[len(texts) :]
        common = (a @ b.T).toarray()
        a_sums, b_sums = (np.asarray(part.sum(axis=1)).ravel() for part in (a, b))
        orders += np.outer(a_sums > 0, b_sums > 0)
        precision += common / np.maximum(a_sums, 1)[:, None]
        recall += common / np.maximum(b_sums, 1)
    precision, recall = (x / np.maximum(orders, 1) for x in (precision, recall))
    total = _CHRF_BETA**2 * precision + recall
    score: FloatArray = (1 + _CHRF_BETA**2) * precision * recall / np.where(total > 0, total, 1)
    return score


def _ngram_matrices(texts: Sequence[str]) -> Iterator[sparse.csr_array]:
    """Yield for each order a matrix with a row for each text, of zeros and ones.

    There is a column for the first occurrence of an n-gram, one for the second, and so on: the
    product of two rows is the number of n-grams that the texts share.
    """
    chars = ["".join(text.split()) for text in texts]
    lengths = np.array([len(text) for text in chars], int)
    encoded = "".join(chars).encode("utf-32-le", "surrogatepass")
    codes = np.unique(np.frombuffer(encoded, np.uint32), return_inverse=True)[1]
    rows = np.repeat(np.arange(len(texts)), lengths)
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(codes))
    grams = np.zeros_like(codes)
    for order in range(1, _CHRF_ORDERS + 1):
        pairs = grams * (codes.max(initial=0) + 1) + np.roll(codes, 1 - order)
        grams = np.unique(pairs, return_inverse=True)[1]
        inside = remaining >= order
        row, gram = rows[inside], grams[inside]
        columns = np.unique(gram * (len(gram) + 1) + _count_earlier(row, gram), return_inverse=True)
        shape = (len(texts), len(columns[0]))
        yield sparse.csr_array((np.ones(len(row)), (row, columns[1])), shape=shape)


def _count_earlier(row: IntArray, gram: IntArray) -> IntArray:
    """Return for each n-gram how often it occurs before in its own row."""
    order = np.lexsort((gram, row))
    new_run = np.ones(len(order), bool)
    new_run[1:] = (np.diff(row[order]) != 0) | (np.diff(gram[order]) != 0)
    positions = np.arange(len(order))
    earlier = np.empty_like(positions)
    earlier[order] = positions - np.maximum.accumulate(np.where(new_run, positions, 0))
    return earlier


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
