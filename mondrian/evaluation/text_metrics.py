"""What can be said of an answer's words without reading them: nearness, repetition, copying.

docs/evaluation.md gives each measure's formula and source.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

_ORDERS, _BETA = 6, 2.0  # of chrF
_GRAM = 4  # words of a phrase that is looked for again
_SENTENCE = 8  # words from which a sentence is long enough to be copied


def chrf(text: str, reference: str) -> float:
    """chrF of two texts, 0 to 1 (Popovic 2015, WMT): F2 over character n-grams up to 6.

    White space is left out, as in the paper's tool; orders that either text lacks do not count.
    """
    chars, reference_chars = ("".join(part.split()) for part in (text, reference))
    precisions, recalls = [], []
    for order in range(1, _ORDERS + 1):
        a, b = _grams(chars, order), _grams(reference_chars, order)
        if not a or not b:
            continue
        common = sum((a & b).values())
        precisions.append(common / sum(a.values()))
        recalls.append(common / sum(b.values()))
    if not precisions:
        return 0.0
    precision, recall = (sum(x) / len(x) for x in (precisions, recalls))
    if not precision + recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def words(text: str) -> list[str]:
    """Words in lower case."""
    return re.findall(r"\w+", text.lower())


def repetition(text: str) -> float:
    """Share of four-word phrases that stood in the text before."""
    text_words = words(text)
    phrases = [tuple(text_words[i : i + _GRAM]) for i in range(len(text_words) - _GRAM + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def cross_text_repetition(texts: Sequence[str]) -> list[float]:
    """Of each text, the share of its distinct four-word phrases that another of the texts has."""
    phrase_sets = []
    for text in texts:
        text_words = words(text)
        phrase_sets.append(
            {tuple(text_words[i : i + _GRAM]) for i in range(len(text_words) - _GRAM + 1)}
        )
    counts = Counter(phrase for phrase_set in phrase_sets for phrase in phrase_set)
    return [
        sum(counts[p] > 1 for p in phrase_set) / len(phrase_set) if phrase_set else 0.0
        for phrase_set in phrase_sets
    ]


def specificity(texts: Sequence[str]) -> list[float]:
    """Of each text, the share of its distinct words that fewer than half of the texts use."""
    word_sets = [set(words(text)) for text in texts]
    counts = Counter(word for word_set in word_sets for word in word_set)
    rare = {word for word, count in counts.items() if count < len(texts) / 2}
    return [len(word_set & rare) / len(word_set) if word_set else 0.0 for word_set in word_sets]


def hash_sentences(texts: Iterable[str]) -> set[str]:
    """Hashes of the sentences of eight words and more, as lower-case words."""
    hashes = set()
    for text in texts:
        for part in re.split(r"[.!?]+\s", text + " "):
            sentence_words = words(part)
            if len(sentence_words) >= _SENTENCE:
                hashes.add(sha256(" ".join(sentence_words).encode()).hexdigest()[:16])
    return hashes


def dominant_script(text: str) -> str:
    """The writing that most letters belong to, by the first word of their Unicode names."""
    letters = [c for c in text if c.isalpha()][:400]
    kinds = Counter(unicodedata.name(c, "?").split()[0] for c in letters)
    return kinds.most_common(1)[0][0] if kinds else ""
