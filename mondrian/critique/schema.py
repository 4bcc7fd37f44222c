"""The critique: its schema, its JSON Schema and its one canonical serialization.

Training targets, constrained decoding and validation all use this module, so a model is trained on
exactly the text that a grammar made from `json_schema()` allows.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DIMENSIONS = (
    "Composition",
    "Lighting",
    "Focus & Sharpness",
    "Color Harmony",
    "Depth & Perspective",
    "Visual Balance",
    "Emotional Impact",
)

# As json.dumps writes; without it llguidance would allow any white space.
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Limits that no real critique reached, so that the longest critique fits into a token limit.
MAX_LONG_TEXT, MAX_SHORT_TEXT = 1200, 300  # characters
MAX_LIST_ITEMS = 5
LongText = Annotated[str, Field(min_length=1, max_length=MAX_LONG_TEXT)]
ShortText = Annotated[str, Field(min_length=1, max_length=MAX_SHORT_TEXT)]
ShortTexts = Annotated[tuple[ShortText, ...], Field(min_length=1, max_length=MAX_LIST_ITEMS)]
Score = Annotated[float, Field(ge=0, le=10, multiple_of=0.1, allow_inf_nan=False)]

# The score of a critique without scores: the middle of the scale, so that the text after it is
# neither praise nor blame. It is never in the loss, and nothing is compared with it.
FILLER_SCORE = 5.0
SCORE_VALUE = re.compile(r'score"\s{0,9}:\s{0,9}(\d+(?:\.\d+)?)')  # in JSON, overall_score too


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dimension(_Strict):
    name: str
    score: Score
    comment: LongText
    recommendation: LongText


class Critique(_Strict):
    image_description: LongText
    dimensions: tuple[Dimension, ...]
    overall_score: Score
    key_strengths: ShortTexts
    priority_improvements: ShortTexts
    technical_notes: LongText

    @model_validator(mode="after")
    def _check_dimension_order(self) -> Self:
        names = tuple(d.name for d in self.dimensions)
        if names != DIMENSIONS:
            raise ValueError(f"dimensions are {', '.join(names) or 'none'}")
        return self

    def scores(self) -> tuple[float, ...]:
        """Return the seven scores, in the order of DIMENSIONS."""
        return tuple(d.score for d in self.dimensions)

    def with_scores(self, scores: Sequence[float], overall: float) -> Self:
        """Return a copy with the scores of the seven dimensions, in their order."""
        dimensions = tuple(
            d.model_copy(update={"score": s}) for d, s in zip(self.dimensions, scores, strict=True)
        )
        return self.model_copy(update={"dimensions": dimensions, "overall_score": overall})

    def with_filler_scores(self) -> Self:
        return self.with_scores([FILLER_SCORE] * len(DIMENSIONS), FILLER_SCORE)


def mean_score(scores: Sequence[float]) -> float:
    """Return the overall score that belongs to seven scores."""
    return round(sum(scores) / len(scores), 1)


def serialize_critique(critique: Critique) -> str:
    """Serialize on one line, keys in schema order, whole scores without a fraction."""
    return json.dumps(_simplify_numbers(critique.model_dump()), ensure_ascii=False)


def validate_critique(text: str) -> Critique:
    """Parse schema-valid text; raises pydantic.ValidationError (a ValueError) otherwise."""
    return Critique.model_validate_json(text)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a critique for llguidance: fixed names, keys in order."""
    long_text = {"type": "string", "minLength": 1, "maxLength": MAX_LONG_TEXT}
    short_text = {"type": "string", "minLength": 1, "maxLength": MAX_SHORT_TEXT}
    short_texts = {"type": "array", "items": short_text, "minItems": 1}
    short_texts["maxItems"] = MAX_LIST_ITEMS
    score = {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.1}
    dimensions = [
        _object_schema(name={"const": n}, score=score, comment=long_text, recommendation=long_text)
        for n in DIMENSIONS
    ]
    dimension_list = {
        "type": "array",
        "prefixItems": dimensions,
        "items": False,
        "minItems": len(dimensions),
    }
    schema = _object_schema(
        image_description=long_text,
        dimensions=dimension_list,
        overall_score=score,
        key_strengths=short_texts,
        priority_improvements=short_texts,
        technical_notes=long_text,
    )
    return schema | {"x-guidance": _SEPARATORS}


def is_schema_valid(text: str) -> bool:
    try:
        validate_critique(text)
    except ValueError:
        return False
    return True


@cache
def schema_hash() -> str:
    """Return the sha256 of the JSON Schema, which an adapter's recipe records."""
    return sha256(json.dumps(json_schema(), sort_keys=True).encode()).hexdigest()


def _object_schema(**properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": list(properties)}


def _simplify_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _simplify_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_simplify_numbers(item) for item in value]
    if isinstance(value, float):
        value = round(value, 1)
        return int(value) if value.is_integer() else value
    return value
