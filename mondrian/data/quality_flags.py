"""Filters for records that can be parsed but should not be trained on: review, flags, duplicates.

A critique that this project served needs a review. Any other problem is a flag on the record, and
`link` in params.yaml says which flagged records are used.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from random import Random

from mondrian.core.params import LinkParams
from mondrian.critique.normalize import dimension_name
from mondrian.critique.parser import ParsedCritique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, Critique
from mondrian.data.jobs import Job, Review
from mondrian.data.link_store import LinkStore

FLAG_COSTS = {  # what training on such records does
    "unscored": "its text is learned and judged, scores are not",
    "made_by_adapter": "the adapter learns from an adapter",
    "template_scores": "teaches constant scores",
    "shared_text": "teaches a text about other photos",
    "wrong_picture": "the text describes another photo",
    "dimension_twice": "the first of two scores counts",
    "repeated_advice": "teaches repetition",
    "overall_off_mean": "the overall score no longer follows from the seven",
}
FLAGS = tuple(FLAG_COSTS)  # the first one in this order that is not allowed is the reason
_VERDICTS = {"reviewed": ("accepted", "corrected"), "corrected": ("corrected",), "leave_out": ()}
_MIN_SIMILARITY = 0.3  # weighted share of common words from which two descriptions are similar
_SAMPLED_PAIRS = 2000  # pairs of descriptions of different photos: their usual similarity
_MAX_DESCRIPTIONS = 2000  # from which the word weights are computed
_MAX_PROMPT_SCORES = 200  # scores of a prompt that are read
_ADAPTER_NAME = re.compile(r"(?<![a-z])lora(?![a-z])|fine[-_ ]?tuned", re.IGNORECASE)
_NO_ADAPTER = ("", "none", "null", "base", "false", "0")
_JSON_SCORE = re.compile(
    r'(?:"name"\s{0,9}:\s{0,9}"([^"]{0,40})"\s{0,9},\s{0,9})?'
    r'"score"\s{0,9}:\s{0,9}(\d{1,2}(?:\.\d{1,2})?)'
)
_GRADE = re.compile(r"(?<![\d.,/-])(\d{1,2}(?:\.\d{1,2})?)\s?/\s?10(?![.,]?\d)")
_DIMENSION_NAME = re.compile(r"([A-Za-z][A-Za-z &]*)[^A-Za-z]*$")  # the last words before a grade
_TAG = re.compile(r"<[^<>]{0,60}>")


def is_review_trainable(review: Review | None, params: LinkParams) -> bool:
    return review is not None and review.verdict in _VERDICTS[params.include_served]


def reject_unreviewed(job: Job, params: LinkParams) -> Rejection:
    problem = "it is neither accepted nor corrected"
    if job.review is not None and job.review.verdict:
        problem = f"{job.review.verdict}, but link.include_served is {params.include_served}"
    detail = f"served by {job.model_used or 'the base'}; {problem}"
    return Rejection(RejectionReason.UNREVIEWED, detail)


def find_record_flags(job: Job, parsed: ParsedCritique, tolerance: float) -> tuple[str, ...]:
    """Return the flags that depend on this job alone."""
    critique = parsed.critique
    scores = critique.scores()
    advice = {" ".join(d.recommendation.lower().split()) for d in critique.dimensions}
    # model_used is the model that answered; mode and model are what was requested.
    model = job.model_used or f"{job.mode} {job.model}"
    difference = abs(critique.overall_score - sum(scores) / len(scores))
    is_flagged = {
        "made_by_adapter": job.adapter.strip().lower() not in _NO_ADAPTER
        or bool(_ADAPTER_NAME.search(model)),
        "unscored": not parsed.scored,
        "template_scores": parsed.scored
        and any(scores in _example_scores(prompt) for prompt in job.prompts()),
        "dimension_twice": "dimension_twice" in parsed.repairs,
        "repeated_advice": len(advice) < len(critique.dimensions),
        "overall_off_mean": difference > tolerance + 1e-9,
    }
    return tuple(name for name, flagged in is_flagged.items() if flagged)


@lru_cache(maxsize=256)
def _example_scores(prompt: str) -> frozenset[tuple[float, ...]]:
    """Return the seven scores that an example in a prompt may give: by name, or any in a row."""
    examples = set()
    json_matches = islice(_JSON_SCORE.finditer(prompt), _MAX_PROMPT_SCORES)
    json_scores = [(match[1] or "", float(match[2])) for match in json_matches]
    for named_scores in (json_scores, _find_html_scores(prompt)):
        scores = [score for _, score in named_scores]
        examples |= {tuple(scores[i : i + 7]) for i in range(len(scores) - 6)}
        by_name = {dimension_name(name): score for name, score in reversed(named_scores)}
        examples.add(tuple(by_name.get(name, -1.0) for name in DIMENSIONS))
    return frozenset(examples)


def _find_html_scores(prompt: str) -> list[tuple[str, float]]:
    named_scores = []
    for match in islice(_GRADE.finditer(prompt), _MAX_PROMPT_SCORES):
        before = _TAG.sub(" ", prompt[max(0, match.start() - 80) : match.start()])
        name = _DIMENSION_NAME.search(before)
        named_scores.append((name[1] if name else "", float(match[1])))
    return named_scores


def words_hash(critique: Critique) -> str:
    """Return the sha256 of a critique's words, without parts that may be made from the scores."""
    parts = [critique.image_description]
    parts += [f"{d.comment} {d.recommendation}" for d in critique.dimensions]
    return sha256(" ".join(re.findall(r"\w+", " ".join(parts).lower())).encode()).hexdigest()


def apply_dataset_filters(store: LinkStore, params: LinkParams) -> Counter[str]:
    """Leave out duplicates and flagged records as params say; return the number of each flag."""
    shared_texts = store.find_shared_texts()
    max_texts = params.critiques_per_photo
    mixed_groups = set()
    if groups := store.find_groups_with_many_texts(max_texts):
        vocabulary = Vocabulary(store.descriptions(_MAX_DESCRIPTIONS))
        for group in groups:
            texts = store.group_descriptions(group, _MAX_DESCRIPTIONS)
            if vocabulary.has_unrelated_descriptions(texts, max_texts):
                mixed_groups.add(group)
    counts: Counter[str] = Counter()
    outcomes = []
    for number, group, words, record_flags, review in store.pairs():
        flagged = dict.fromkeys(record_flags.split(), True)
        flagged |= {"shared_text": words in shared_texts, "wrong_picture": group in mixed_groups}
        flags = [name for name in FLAGS if flagged.get(name)]
        counts.update(flags)
        excluded = [name for name in flags if getattr(params, name) == "leave_out" and not review]
        detail = "; ".join(RejectionReason(name).description for name in flags if excluded)
        if flags:
            text_only = [name for name in flags if getattr(params, name) == "text_only"]
            scored = "unscored" not in flags and (bool(review) or not text_only)
            outcomes.append(("".join(excluded[:1]), detail, " ".join(flags), scored, number))
    store.set_outcomes(outcomes)
    return counts


class Vocabulary:
    """Word weights of (photo group, description) pairs, and the similarity that counts as high."""

    def __init__(self, descriptions: Sequence[tuple[str, str]]) -> None:
        counts = Counter(word for _, text in descriptions for word in _words(text))
        self._weights = {word: math.log(len(descriptions) / n) for word, n in counts.items()}
        self._min_similarity = self._threshold(descriptions)

    def has_unrelated_descriptions(self, descriptions: Sequence[str], max_kinds: int) -> bool:
        """Return whether more than `max_kinds` descriptions each differ from all before them."""
        kinds: list[set[str]] = []
        for words in map(_words, descriptions):
            if not any(self._similarity(words, kind) >= self._min_similarity for kind in kinds):
                kinds.append(words)
            if len(kinds) > max_kinds:
                return True
        return False

    def _threshold(self, descriptions: Sequence[tuple[str, str]]) -> float:
        """Return the 99th percentile of the similarity of descriptions of different groups."""
        rng = Random(0)
        num_pairs = _SAMPLED_PAIRS if len(descriptions) > 1 else 0
        pairs = [rng.sample(descriptions, 2) for _ in range(num_pairs)]
        similarities = sorted(
            self._similarity(_words(a), _words(b)) for (p, a), (q, b) in pairs if p != q
        )
        if len(similarities) < _SAMPLED_PAIRS / 4:
            return _MIN_SIMILARITY
        return max(_MIN_SIMILARITY, similarities[int(0.99 * len(similarities))])

    def _similarity(self, a: set[str], b: set[str]) -> float:
        """Return the Jaccard index of two sets of words, weighted by inverse document frequency."""
        union_weight = self._weight(a | b)
        return self._weight(a & b) / union_weight if union_weight else 1.0

    def _weight(self, words: set[str]) -> float:
        return sum(self._weights.get(word, 0.0) for word in words)


def _words(text: str) -> set[str]:
    """Return the first four letters of each longer word, so that rock and rocky are equal."""
    return {word[:4] for word in re.findall(r"[^\W\d_]{4,}", text.lower())}
