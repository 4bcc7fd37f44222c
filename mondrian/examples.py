"""Prepared rows -> tokens to learn from, each with the weight it has in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.errors import TrainingError
from mondrian.features import FeatureCache
from mondrian.params import Train
from mondrian.rows import Row
from mondrian.supervision import token_weights
from mondrian.vlm import Vlm, answer_ids, prompt_ids


@dataclass(frozen=True)
class Example:
    """One row ready to learn from: its tokens, where the answer begins, its photograph's path.

    weights  one a token of the answer: how many times it counts in the loss
    scores   the advisor's own, of the seven dimensions
    """

    ids: list[int]
    start: int
    photo: str
    weights: list[float]
    scores: tuple[float, ...] = ()


def examples(vlm: Vlm, rows: Sequence[Row], params: Train, features: FeatureCache) -> list[Example]:
    """Tokenise rows and look at their photographs, each once.

    Raises TrainingError that names every row longer than train.max_tokens.
    """
    features.look([row.images[0] for row in rows])
    found = [_example(vlm, row, params, features) for row in rows]
    long = [
        f"{row.id} ({len(example.ids)})"
        for row, example in zip(rows, found, strict=True)
        if len(example.ids) > params.max_tokens
    ]
    if long:
        more = f" (+{len(long) - 5} more)" if len(long) > 5 else ""
        raise TrainingError(
            f"{len(long)} rows have more than train.max_tokens ({params.max_tokens}) tokens: "
            f"{', '.join(long[:5])}{more}; raise it, or lower image.max_pixels"
        )
    return found


def _example(vlm: Vlm, row: Row, params: Train, features: FeatureCache) -> Example:
    path = row.images[0]
    prompt = prompt_ids(vlm, row.messages[:-1], features.get(path))
    text = row.messages[-1]["content"]
    answer, spans = answer_ids(vlm, text)
    weights = token_weights(text, spans, row.derived, params.score_weight)
    scores = tuple(row.answer().scores())
    return Example(prompt + answer, len(prompt), path, weights, scores)
