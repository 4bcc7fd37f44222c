"""Records that parse and still spoil training: what one job shows, and what only many show.

Each suspicion is a flag on the record and a key of `link` in params.yaml, which says whether such a
record is kept.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from random import Random

from mondrian.critique.normalize import dimension_name
from mondrian.critique.parser import ParsedCritique
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.data.jobs import Job

FLAG_COSTS = {  # what is lost by keeping such records
    "made_by_adapter": "the adapter learns from an adapter",
    "template_scores": "they teach constant scores",
    "shared_text": "a text about other photographs is learned",
    "wrong_picture": "the text speaks of another picture than is shown",
    "dimension_twice": "the first of two judgements counts",
    "repeated_advice": "they teach to repeat oneself",
    "overall_off_mean": "the overall score no longer follows from the seven",
}
FLAGS = tuple(FLAG_COSTS)  # in this order the first that is left out names the reason
_MIN_SIMILARITY = (
    0.3  # weighted share of words in common from which two descriptions speak of one thing
)
_SAMPLED_PAIRS = (
    2000  # of descriptions, drawn to learn what those of different pictures have in common
)
_TUNED = re.compile(r"(?<![a-z])lora(?![a-z])|fine[-_ ]?tuned", re.IGNORECASE)
_NO_ADAPTER = ("", "none", "null", "base", "false", "0")
_MAX_PROMPT_SCORES = 200  # scores in a prompt that are looked at
_JSON_SCORE = re.compile(
    r'(?:"name"\s{0,9}:\s{0,9}"([^"]{0,40})"\s{0,9},\s{0,9})?'
    r'"score"\s{0,9}:\s{0,9}(\d{1,2}(?:\.\d{1,2})?)'
)
_GRADE = re.compile(r"(?<![\d.,/-])(\d{1,2}(?:\.\d{1,2})?)\s?/\s?10(?![.,]?\d)")
_DIMENSION_NAME = re.compile(r"([A-Za-z][A-Za-z &]*)[^A-Za-z]*$")  # the last words before a grade
_TAG = re.compile(r"<[^<>]{0,60}>")


def find_record_flags(
    job: Job, parsed: ParsedCritique, overall_tolerance: float
) -> tuple[str, ...]:
    """What one job shows by itself; names are keys of params.yaml: link."""
    critique = parsed.critique
    scores = critique.scores()
    advice = [" ".join(d.recommendation.lower().split()) for d in critique.dimensions]
    # model_used says who did answer; a mode only what was asked for.
    made_with = job.model_used or f"{job.mode} {job.model}"
    off = abs(critique.overall_score - sum(scores) / len(scores))
    true = {
        "made_by_adapter": job.adapter.strip().lower() not in _NO_ADAPTER
        or bool(_TUNED.search(made_with)),
        "template_scores": any(scores in _example_scores(prompt) for prompt in job.prompts()),
        "dimension_twice": "dimension_twice" in parsed.repairs,
        "repeated_advice": len(set(advice)) < len(advice),
        "overall_off_mean": off > overall_tolerance + 1e-9,
    }
    return tuple(name for name, holds in true.items() if holds)


@lru_cache(maxsize=256)
def _example_scores(prompt: str) -> frozenset[tuple[float, ...]]:
    """Scores that an example in a prompt may give to the seven: by name, or any seven in a row."""
    out = set()
    for named_scores in (_find_json_scores(prompt), _find_html_scores(prompt)):
        numbers = [score for _, score in named_scores]
        out |= {tuple(numbers[i : i + 7]) for i in range(len(numbers) - 6)}
        named = {dimension_name(name): score for name, score in reversed(named_scores)}
        out.add(tuple(named.get(name, -1.0) for name in DIMENSIONS))
    return frozenset(out)


def _find_json_scores(prompt: str) -> list[tuple[str, float]]:
    matches = islice(_JSON_SCORE.finditer(prompt), _MAX_PROMPT_SCORES)
    return [(match[1] or "", float(match[2])) for match in matches]


def _find_html_scores(prompt: str) -> list[tuple[str, float]]:
    out = []
    for match in islice(_GRADE.finditer(prompt), _MAX_PROMPT_SCORES):
        before = _TAG.sub(" ", prompt[max(0, match.start() - 80) : match.start()])
        name = _DIMENSION_NAME.search(before)
        out.append((name[1] if name else "", float(match[1])))
    return out


def words_hash(critique: Critique) -> str:
    """sha256 of a critique's words, whatever their case and its scores.

    Only of what each form has: the summary at its end may have been made from the scores.
    """
    parts = [critique.image_description]
    parts += [f"{d.comment} {d.recommendation}" for d in critique.dimensions]
    return sha256(" ".join(re.findall(r"\w+", " ".join(parts).lower())).encode()).hexdigest()


class Vocabulary:
    """What an advisor's descriptions have in common, and so what being alike means for them.

    descriptions  descriptions, each with the picture it is stored for
    """

    def __init__(self, descriptions: Sequence[tuple[str, str]]) -> None:
        count = Counter(word for _, text in descriptions for word in _words(text))
        self._weights = {w: math.log(len(descriptions) / n) for w, n in count.items()}
        self._alike = self._threshold(descriptions)

    def has_unrelated_descriptions(self, descriptions: Sequence[str], max_kinds: int) -> bool:
        """Whether descriptions speak of more than so many things, each unlike all before it."""
        kinds: list[set[str]] = []
        for words in map(_words, descriptions):
            if not any(self._likeness(words, kind) >= self._alike for kind in kinds):
                kinds.append(words)
            if len(kinds) > max_kinds:
                return True
        return False

    def _threshold(self, descriptions: Sequence[tuple[str, str]]) -> float:
        """Alike are two descriptions that have more in common than those of different pictures."""
        rng = Random(0)
        pairs = (
            [rng.sample(descriptions, 2) for _ in range(_SAMPLED_PAIRS)]
            if len(descriptions) > 1
            else []
        )
        apart = sorted(self._likeness(_words(a), _words(b)) for (p, a), (q, b) in pairs if p != q)
        return (
            max(_MIN_SIMILARITY, apart[int(0.99 * len(apart))])
            if len(apart) >= _SAMPLED_PAIRS / 4
            else _MIN_SIMILARITY
        )

    def _likeness(self, a: set[str], b: set[str]) -> float:
        """Jaccard index of two sets of words, each weighted with its inverse document frequency."""
        union_weight = self._weight(a | b)
        return self._weight(a & b) / union_weight if union_weight else 1.0

    def _weight(self, words: set[str]) -> float:
        return sum(self._weights.get(word, 0.0) for word in words)


def _words(text: str) -> set[str]:
    """The first four letters of each longer word, so that rock and rocky are one."""
    return {word[:4] for word in re.findall(r"[^\W\d_]{4,}", text.lower())}
