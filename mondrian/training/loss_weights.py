"""How much each token of an answer counts in the loss."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

Span = tuple[int, int]  # characters, from and up to

_SCORE = re.compile(r'score": (\d+(?:\.\d+)?)')


def token_weights(
    answer: str, tokens: Sequence[Span], derived: Sequence[str], score_weight: float
) -> list[float]:
    """1 for each token, score_weight for the digits of a score, 0 for what the advisor did not say.

    tokens   the characters that each token stands for
    derived  keys of the critique whose values were made of its other parts
    """
    scores = [match.span(1) for match in _SCORE.finditer(answer)]
    silent = _values(answer, derived)
    return [
        0.0 if _meets(token, silent) else score_weight if _meets(token, scores) else 1.0
        for token in tokens
    ]


def _values(answer: str, keys: Sequence[str]) -> list[Span]:
    """Where the values of some keys of the outer object stand."""
    values = json.loads(answer) if keys else {}
    out = []
    for key in keys:
        start = answer.rindex(f'"{key}": ') + len(f'"{key}": ')
        out.append((start, start + len(json.dumps(values[key], ensure_ascii=False))))
    return out


def _meets(token: Span, spans: Sequence[Span]) -> bool:
    return any(first < token[1] and token[0] < last for first, last in spans)
