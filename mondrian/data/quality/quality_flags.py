"""Filters for records that can be parsed but should not be trained on: review, flags, duplicates.

A critique that this project served needs a review. Any other problem is a flag on the record, and
`link` in params.yaml says which flagged records are used.
"""

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

from mondrian.core.params import LinkParams
from mondrian.critique.parser import ParsedCritique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import Critique
from mondrian.data.jobs import Job, Review
from mondrian.data.link_store import LinkStore
from mondrian.data.quality.constant_scores import (
    ScoredText,
    find_constant_scores,
    is_example,
    is_nearly_example,
)
from mondrian.data.quality.wrong_pictures import find_wrong_pictures

FLAG_COSTS = {  # what training on such records does
    "unscored": "its text is learned and judged, scores are not",
    "made_by_adapter": "the adapter learns from an adapter",
    "template_scores": "teaches constant scores",
    "constant_scores": "teaches constant scores",
    "shared_text": "teaches a text about other photos",
    "wrong_picture": "the text may describe another photo",
    "dimension_twice": "the first of two scores counts",
    "repeated_advice": "teaches repetition",
    "overall_off_mean": "the overall score no longer follows from the others",
}
FLAGS = tuple(FLAG_COSTS)  # the first one in this order that is not allowed is the reason
_VERDICTS = {"reviewed": ("accepted", "corrected"), "corrected": ("corrected",), "leave_out": ()}
_ADAPTER_NAME = re.compile(r"(?<![a-z])lora(?![a-z])|fine[-_ ]?tuned", re.IGNORECASE)
_NO_ADAPTER = ("", "none", "null", "base", "false", "0")


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
    is_flagged = {
        "made_by_adapter": is_made_by_adapter(job),
        "unscored": not parsed.scored,
        "template_scores": parsed.scored and is_example(scores, job.prompts()),
        "constant_scores": parsed.scored and is_nearly_example(scores, job.prompts()),
        "dimension_twice": "dimension_twice" in parsed.repairs,
        "repeated_advice": len(advice) < len(critique.dimensions),
        "overall_off_mean": _is_off_mean(parsed, tolerance),
    }
    if is_flagged["template_scores"]:  # which says more
        del is_flagged["constant_scores"]
    return tuple(name for name, flagged in is_flagged.items() if flagged)


def is_made_by_adapter(job: Job) -> bool:
    # model_used is the model that answered; mode and model are what was requested.
    model = job.model_used or f"{job.mode} {job.model}"
    return job.adapter.strip().lower() not in _NO_ADAPTER or bool(_ADAPTER_NAME.search(model))


def _is_off_mean(parsed: ParsedCritique, tolerance: float) -> bool:
    mean = nearest_mean(parsed.critique, parsed.extra_scores)
    return abs(parsed.critique.overall_score - mean) > tolerance + 1e-9


def nearest_mean(critique: Critique, extra_scores: tuple[float, ...]) -> float:
    """Return the mean of the seven or of all stored scores: the one nearer to the overall score."""
    seven = critique.scores()
    means = [sum(scores) / len(scores) for scores in (seven, (*seven, *extra_scores))]
    return min(means, key=lambda mean: abs(critique.overall_score - mean))


def words_hash(critique: Critique) -> str:
    """Return the sha256 of a critique's words, without parts that may be made from the scores."""
    parts = [critique.image_description]
    parts += [f"{d.comment} {d.recommendation}" for d in critique.dimensions]
    return sha256(" ".join(re.findall(r"\w+", " ".join(parts).lower())).encode()).hexdigest()


def find_excluding_flags(flags: Iterable[str], params: LinkParams) -> list[str]:
    """Return the flags for which params leave out a record that no person has reviewed."""
    return [name for name in flags if getattr(params, name) == "leave_out"]


def apply_dataset_filters(store: LinkStore, params: LinkParams) -> Counter[str]:
    """Leave out duplicates and flagged records as params say; return the number of each flag."""
    shared_texts = store.find_shared_texts()
    wrong_pictures = find_wrong_pictures(store, shared_texts)
    constant_scores = find_constant_scores(ScoredText(*row) for row in store.scored_texts())
    counts: Counter[str] = Counter()
    outcomes = []
    for pair in store.pairs():
        flagged = dict.fromkeys(pair.flags.split(), True)
        is_template = "template_scores" in flagged
        details = {"wrong_picture": wrong_pictures.get((pair.sha256, pair.words), "")}
        flagged["shared_text"] = pair.words in shared_texts
        flagged["wrong_picture"] = bool(details["wrong_picture"])
        if pair.scores in constant_scores and not is_template:
            flagged["constant_scores"] = True
        flags = [name for name in FLAGS if flagged.get(name)]
        counts.update(flags)
        excluded = [] if pair.review else find_excluding_flags(flags, params)
        detail = "; ".join(
            details.get(name) or RejectionReason(name).description for name in flags if excluded
        )
        if flags:
            text_only = [name for name in flags if getattr(params, name) == "text_only"]
            scored = "unscored" not in flags and (bool(pair.review) or not text_only)
            outcome = ("".join(excluded[:1]), detail, " ".join(flags), scored, pair.number)
            outcomes.append(outcome)
    store.set_outcomes(outcomes)
    return counts
