"""Prepared rows -> tokens to learn from, each with the weight it has in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mondrian.core.errors import TrainingError
from mondrian.core.params import Train
from mondrian.critique.rows import ChatRow
from mondrian.model.tokenizer import RowTokenizer
from mondrian.model.vision_cache import FeatureCache
from mondrian.model.vlm import Vlm
from mondrian.training.loss_weights import token_weights


@dataclass(frozen=True)
class Example:
    """One row ready to learn from: its tokens, where the answer begins, its photograph's path.

    name     advisor and job
    weights  one a token of the answer: how many times it counts in the loss
    scores   the advisor's own, of the seven dimensions
    """

    name: str
    ids: list[int]
    start: int
    photo: str
    weights: list[float]
    scores: tuple[float, ...] = ()


def build_examples(
    vlm: Vlm, rows: Sequence[ChatRow], params: Train, features: FeatureCache
) -> list[Example]:
    """Tokenise rows and look at their photographs, each once.

    Raises TrainingError that names every row longer than train.max_seq_length.
    """
    features.precompute([row.images[0] for row in rows])
    counts = [features.get(row.images[0]).merged.shape[0] for row in rows]
    dataset = [
        build_example(vlm.tokens, row, params, n) for row, n in zip(rows, counts, strict=True)
    ]
    check_sequence_lengths(dataset, params)
    return dataset


def build_example(tokens: RowTokenizer, row: ChatRow, params: Train, image_tokens: int) -> Example:
    """One row as tokens and their weights."""
    prompt = tokens.prompt(row.messages[:-1], image_tokens)
    text = row.messages[-1]["content"]
    answer, spans = tokens.answer(text)
    weights = token_weights(text, spans, row.derived, params.score_weight)
    scores = tuple(row.reference_critique().scores())
    return Example(row.id, prompt + answer, len(prompt), row.images[0], weights, scores)


def check_sequence_lengths(rows: Sequence[Example], params: Train) -> None:
    """Raise TrainingError that names every row longer than train.max_seq_length."""
    long = [f"{row.name} ({len(row.ids)})" for row in rows if len(row.ids) > params.max_seq_length]
    if long:
        more = f" (+{len(long) - 5} more)" if len(long) > 5 else ""
        raise TrainingError(
            f"{len(long)} rows have more than train.max_seq_length ({params.max_seq_length}) "
            f"tokens: "
            f"{', '.join(long[:5])}{more}; raise it, or lower image.max_pixels"
        )
