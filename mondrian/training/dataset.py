"""Prepared rows -> training examples: tokens, and the weight of each in the loss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mondrian.core.errors import TrainingError, join_first
from mondrian.core.params import TrainParams
from mondrian.critique.preference_rows import PreferenceRow
from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import SCORE_VALUE
from mondrian.model.tokenizer import RowTokenizer
from mondrian.model.vision_cache import FeatureCache

Span = tuple[int, int]  # first character, end


@dataclass(frozen=True)
class Example:
    name: str  # advisor and job
    ids: list[int]
    start: int  # index of the completion's first token
    photo: str  # path
    weights: list[float]  # (completion tokens,) weight of each in the loss
    scores: tuple[float, ...] = ()  # the advisor's, of the seven dimensions; empty if text only
    rejected: tuple[int, ...] = ()  # completion of a worse critique of the photo, if there is one
    rejected_weights: tuple[float, ...] = ()  # (rejected,) weight of each in its mean

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + len(self.rejected)


def build_examples(
    rows: Sequence[ChatRow], params: TrainParams, features: FeatureCache
) -> list[Example]:
    """Tokenize rows and encode their photos; raise TrainingError that names rows too long."""
    features.precompute([row.images[0] for row in rows])
    examples = [
        build_example(
            features.vlm.tokenizer, row, params, features.get(row.images[0]).merged.shape[0]
        )
        for row in rows
    ]
    check_sequence_lengths(examples, params)
    return examples


def build_example(
    tokenizer: RowTokenizer, row: ChatRow, params: TrainParams, image_tokens: int
) -> Example:
    prompt = tokenizer.tokenize_prompt(row.messages[:-1], image_tokens)
    text = row.messages[-1]["content"]
    completion, spans = tokenizer.tokenize_completion(text)
    score_weight = params.score_weight if row.scored else 0.0
    weights = token_weights(text, spans, row.derived, score_weight)
    scores = row.reference_critique().scores() if row.scored else ()
    example = Example(row.id, prompt + completion, len(prompt), row.images[0], weights, scores)
    if not isinstance(row, PreferenceRow):
        return example
    rejected, spans = tokenizer.tokenize_completion(row.rejected)
    rejected_weights = tuple(token_weights(row.rejected, spans, (), params.score_weight))
    return replace(example, rejected=tuple(rejected), rejected_weights=rejected_weights)


def check_sequence_lengths(examples: Sequence[Example], params: TrainParams) -> None:
    """Raise TrainingError that names every example longer than train.max_seq_length."""
    max_length = params.max_seq_length
    lengths = [(e.name, max(len(e.ids), e.start + len(e.rejected))) for e in examples]
    too_long = [f"{name} ({length})" for name, length in lengths if length > max_length]
    if too_long:
        raise TrainingError(
            f"{len(too_long)} rows have more than train.max_seq_length ({max_length}) tokens: "
            f"{join_first(too_long, 5)}; raise it, or lower image.max_pixels"
        )


def token_weights(
    completion: str, tokens: Sequence[Span], derived: Sequence[str], score_weight: float
) -> list[float]:
    """Weight each token: 1, score_weight for a score's digits, 0 for derived values.

    tokens        characters of each token
    derived       keys of the critique with values computed from its other parts
    score_weight  0 excludes scores, with the comma after each: it says that no decimal follows
    """
    comma = 0 if score_weight else 1
    matches = SCORE_VALUE.finditer(completion)
    scores = [(match.start(1), match.end(1) + comma) for match in matches]
    excluded = _value_spans(completion, derived)
    return [
        0.0 if _overlaps(token, excluded) else score_weight if _overlaps(token, scores) else 1.0
        for token in tokens
    ]


def _value_spans(completion: str, keys: Sequence[str]) -> list[Span]:
    values = json.loads(completion) if keys else {}
    spans = []
    for key in keys:
        start = completion.rindex(f'"{key}": ') + len(f'"{key}": ')
        spans.append((start, start + len(json.dumps(values[key], ensure_ascii=False))))
    return spans


def _overlaps(token: Span, spans: Sequence[Span]) -> bool:
    return any(first < token[1] and token[0] < end for first, end in spans)
