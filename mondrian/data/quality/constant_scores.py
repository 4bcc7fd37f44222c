"""Recognize scores that do not depend on the photo: copied from the prompt, or always the same."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np

from mondrian.core.fields import FloatArray
from mondrian.critique.normalize import dimension_name
from mondrian.critique.schema import DIMENSIONS

Scores = tuple[float, ...]  # in the order of DIMENSIONS
_MIN_TEXTS, _MAX_SHARE = 5, 0.1  # different texts with the same scores; their share of all texts
_MIN_PHOTOS = 2  # many critiques of one photo should agree
_MAX_PROMPT_SCORES = 200  # scores of a prompt that are read
_TOLERANCE = 1e-9
_JSON_SCORE = re.compile(
    r'(?:"name"\s{0,9}:\s{0,9}"([^"]{0,40})"\s{0,9},\s{0,9})?'
    r'"score"\s{0,9}:\s{0,9}(\d{1,2}(?:\.\d{1,2})?)'
)
_GRADE = re.compile(r"(?<![\d.,/-])(\d{1,2}(?:\.\d{1,2})?)\s?/\s?10(?![.,]?\d)")
_DIMENSION_NAME = re.compile(r"([A-Za-z][A-Za-z &]*)[^A-Za-z]*$")  # the last words before a grade
_TAG = re.compile(r"<[^<>]{0,60}>")


class ScoredText(NamedTuple):
    """The scores of one critique of the advisor, whether or not it can be used."""

    scores: Scores
    words: str  # quality_flags.words_hash: the same text is counted once
    photo: str
    is_template: bool  # its scores are those of the example in its prompt


def is_example(scores: Scores, prompts: Iterable[str]) -> bool:
    """Return whether the scores are those of an example in a prompt."""
    return any(bool((_differences(scores, prompt) == 0).all(axis=1).any()) for prompt in prompts)


def is_nearly_example(scores: Scores, prompts: Iterable[str]) -> bool:
    """Return whether one score differs from an example in a prompt, by at most one point."""
    return any(_is_one_step(_differences(scores, prompt)) for prompt in prompts)


def find_constant_scores(texts: Iterable[ScoredText]) -> set[Scores]:
    """Return the scores that too many different texts share, or that resemble a copied example.

    An example counts as copied if it is found in at least _MIN_TEXTS texts together with its
    prompt; it is then recognized in rows without a prompt too.
    """
    words: dict[Scores, set[str]] = defaultdict(set)
    photos: dict[Scores, set[str]] = defaultdict(set)
    template_words: dict[Scores, set[str]] = defaultdict(set)
    for text in texts:
        words[text.scores].add(text.words)
        photos[text.scores].add(text.photo)
        if text.is_template:
            template_words[text.scores].add(text.words)
    min_texts = max(_MIN_TEXTS - 1, _MAX_SHARE * len(set().union(*words.values())))
    constant = {
        scores
        for scores, distinct in words.items()
        if len(distinct) > min_texts and len(photos[scores]) >= _MIN_PHOTOS
    }
    templates = [s for s, distinct in template_words.items() if len(distinct) >= _MIN_TEXTS]
    if templates:
        examples = np.array(templates)
        constant |= {scores for scores in words if _is_one_step(np.abs(examples - scores))}
    return constant | set(templates)


def _is_one_step(differences: FloatArray) -> bool:
    changed = differences > _TOLERANCE
    is_small = differences.max(axis=1, initial=0.0) <= 1 + _TOLERANCE
    return bool(((changed.sum(axis=1) == 1) & is_small).any())


def _differences(scores: Scores, prompt: str) -> FloatArray:
    """Return the differences from each example in a prompt, (examples, dimensions)."""
    return np.abs(_read_examples(prompt) - scores)


@lru_cache(maxsize=256)
def _read_examples(prompt: str) -> FloatArray:
    """Return the seven scores that an example in a prompt may give: by name, or any in a row."""
    examples = set()
    json_matches = islice(_JSON_SCORE.finditer(prompt), _MAX_PROMPT_SCORES)
    json_scores = [(match[1] or "", float(match[2])) for match in json_matches]
    for named_scores in (json_scores, _find_html_scores(prompt)):
        scores = [score for _, score in named_scores]
        examples |= {tuple(scores[i : i + 7]) for i in range(len(scores) - 6)}
        by_name = {dimension_name(name): score for name, score in reversed(named_scores)}
        examples.add(tuple(by_name.get(name, -100.0) for name in DIMENSIONS))
    return np.array(sorted(examples), float)


def _find_html_scores(prompt: str) -> list[tuple[str, float]]:
    named_scores = []
    for match in islice(_GRADE.finditer(prompt), _MAX_PROMPT_SCORES):
        before = _TAG.sub(" ", prompt[max(0, match.start() - 80) : match.start()])
        name = _DIMENSION_NAME.search(before)
        named_scores.append((name[1] if name else "", float(match[1])))
    return named_scores
