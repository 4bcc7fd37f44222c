"""The quality index of every pair of answer and reference.

100 is the advisor's own critique of the photo, 0 an answer that does not depend on the photo: the
constant's scores in the words of the advisor's other critiques. docs/evaluation.md explains it.
Scores are those that the model generated: calibration changes nothing here.

Arrays of pairs are (photos, photos): [i, j] compares the answer to photo i with the reference of
photo j. They have NaN in the columns of references without what is compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mondrian.core.fields import FloatArray
from mondrian.core.params import IndexWeights
from mondrian.evaluation.generation import parse_answer
from mondrian.evaluation.score_metrics import CHANCE_ERROR, Scores, pair_errors, raw_scores
from mondrian.evaluation.text_metrics import chrf

Entries = Sequence[dict[str, Any]]  # of comparison_report.json: photos, or answers to them
_MIN_CONSTANT_ERROR = 0.1  # points of 10, if the constant predicts the scores exactly
_MIN_TEXT_RANGE = 0.05  # of chrF between chance and 1, if all references are nearly equal


@dataclass(frozen=True)
class ArmIndex:
    """Parts and quality index of the answers of an arm, by pair."""

    parts: dict[str, FloatArray]
    index: FloatArray
    aligned_score_index: FloatArray  # scores and grounding after align_scores, in its points

    def summarize(self) -> dict[str, Any]:
        """Return means over the answers, each compared with its own reference."""
        own = {name: np.diag(pairs) for name, pairs in (self.parts | {"": self.index}).items()}
        known = {name: values[~np.isnan(values)] for name, values in own.items()}
        means = {name: float(values.mean()) for name, values in known.items() if len(values)}
        index = means.pop("", None)
        return {
            "quality_index": None if index is None else round(index, 2),
            "index_parts": {name: round(mean, 4) for name, mean in means.items()},
        }


def compute_arm_indexes(
    arms: dict[str, Entries], photos: Entries, constant: FloatArray, weights: IndexWeights
) -> dict[str, ArmIndex]:
    """Return the index of each arm's answers.

    constant  scores that the constant predicts: (photos, 7)
    """
    texts = _text_parts(arms, photos)
    scale = 100 / sum(weights.model_dump().values())
    indexes = {}
    for arm, answers in arms.items():
        scores = [raw_scores(answer) for answer in answers]
        parts = _score_parts(scores, photos, constant)
        aligned = _weigh(_score_parts(align_scores(scores, photos), photos, constant), weights)
        by_score, text = _weigh(parts, weights), texts[arm]
        only_text = text if weights.text else np.full_like(text, np.nan)
        total = by_score + weights.text * text
        index = np.where(np.isnan(by_score), 100 * only_text, scale * total)
        indexes[arm] = ArmIndex(parts | {"text": text}, index, scale * aligned)
    return indexes


def align_scores(scores: Sequence[Scores | None], photos: Entries) -> list[Scores | None]:
    """Give an arm's scores the distribution of the references, separately for each dimension.

    Only the order of the photos is left: the score of rank k becomes the reference of rank k, and
    equal scores become the mean of theirs. Answers to photos without reference stay as they are.
    If some answers have no scores, the others get the quantiles of all references.
    """
    aligned = list(scores)
    known = [i for i, photo in enumerate(photos) if photo["reference_scores"] is not None]
    both = [i for i in known if scores[i] is not None]
    if both:
        references = np.sort([photos[i]["reference_scores"] for i in known], axis=0)
        ranks, positions = ((np.arange(n) + 0.5) / n for n in (len(both), len(known)))
        targets = [np.interp(ranks, positions, column) for column in references.T]
        columns = np.array([scores[i] for i in both], float).T
        rows = np.column_stack(list(map(_take_ranks, columns, targets)))
        for i, row in zip(both, rows, strict=True):
            aligned[i] = row
    return aligned


def _take_ranks(values: FloatArray, targets: FloatArray) -> FloatArray:
    """Replace each value by the mean of the sorted targets that have its ranks."""
    _, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.add.reduceat(targets, np.cumsum(counts) - counts) / counts
    return np.asarray(means[indices])


def _weigh(parts: dict[str, FloatArray], weights: IndexWeights) -> FloatArray:
    return weights.scores * parts["scores"] + weights.grounding * parts["grounding"]


def take_known_pairs(values: FloatArray, photos: Entries) -> tuple[FloatArray, list[str]]:
    """Return the values of pairs of photos that have one, and the groups of the photos."""
    known = np.flatnonzero(~np.isnan(np.diag(values))).tolist()
    return values[np.ix_(known, known)], [photos[i]["photo_group"] for i in known]


def _score_parts(
    answers: Sequence[Scores | None], photos: Entries, constant: FloatArray
) -> dict[str, FloatArray]:
    """Return the parts scores and grounding of answers with these scores."""
    scored = [i for i, photo in enumerate(photos) if photo["reference_scores"] is not None]
    scores, grounding = np.full((2, len(photos), len(photos)), np.nan)
    if scored:
        references = np.array([photos[i]["reference_scores"] for i in scored], float)
        errors = _pair_errors(answers, references)
        constant_error = max(_MIN_CONSTANT_ERROR, np.abs(constant[scored] - references).mean())
        scores[:, scored] = np.maximum(-1, 1 - errors / constant_error)
        groups = [photos[i]["photo_group"] for i in scored]
        grounding[:, scored] = _compare_with_others(errors, references, groups)
    return {"scores": scores, "grounding": grounding}


def _pair_errors(answers: Sequence[Scores | None], references: FloatArray) -> FloatArray:
    """Return the score errors of all pairs; an answer without scores has that of random ones."""
    errors = np.full((len(answers), len(references)), CHANCE_ERROR)
    scored = [i for i, scores in enumerate(answers) if scores is not None]
    if scored:
        predicted = np.array([answers[i] for i in scored], float)
        errors[scored] = pair_errors(predicted, references)
    return errors


def _compare_with_others(
    errors: FloatArray, references: FloatArray, groups: Sequence[str]
) -> FloatArray:
    """Return the share of other photos' references that are further away minus that of closer ones.

    References equal to the compared one do not count.
    """
    equal = (references[:, None] == references[None]).all(axis=2)
    other = ~(equal | _same_group(groups))
    signs = (np.sign(row[None] - row[:, None]) for row in errors)
    sums = np.array([(sign * other).sum(axis=1) for sign in signs])
    return np.asarray(sums / np.maximum(other.sum(axis=1), 1))


def _text_parts(arms: dict[str, Entries], photos: Entries) -> dict[str, FloatArray]:
    """Return by arm chrF of the words, rescaled so that another critique of the advisor is 0."""
    references = [_join_words(photo["reference_text"]) for photo in photos]
    answers = [_join_words(answer["text"]) for entries in arms.values() for answer in entries]
    similarity = chrf([*references, *answers], references)
    others = ~_same_group([photo["photo_group"] for photo in photos])
    chance = (similarity[: len(photos)] * others).sum(axis=0) / np.maximum(others.sum(axis=0), 1)
    parts = (similarity[len(photos) :] - chance) / np.maximum(1 - chance, _MIN_TEXT_RANGE)
    return dict(zip(arms, np.split(np.maximum(-1, parts), len(arms)), strict=True))


def _same_group(groups: Sequence[str]) -> NDArray[np.bool_]:
    names = np.array(groups)
    return np.asarray(names[:, None] == names[None])


def _join_words(text: str) -> str:
    """Return the texts of a critique, without names and scores; of another answer all of it."""
    critique = parse_answer(text)
    if critique is None:
        return text
    comments = [part for d in critique.dimensions for part in (d.comment, d.recommendation)]
    summary = [*critique.key_strengths, *critique.priority_improvements, critique.technical_notes]
    return "\n".join([critique.image_description, *comments, *summary])
