"""What a person says of a critique, as JSON: checked, and every fault told with its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mondrian.core.validation import suggest_name
from mondrian.critique.schema import DIMENSIONS, Critique, Score
from mondrian.serving.http.request_parsing import MAX_FIELD_CHARS

MAX_NOTE_CHARS = 1000  # characters of a person's note
_MAX_ECHO_CHARS = 60  # characters of a name or value that a fault repeats


def _reject_nul(text: str) -> str:
    if "\0" in text:  # PostgreSQL keeps none
        raise ValueError("a NUL is in it")
    return text


NulFreeText = Annotated[str, AfterValidator(_reject_nul)]


class FeedbackRequest(BaseModel):
    """POST /jobs/<id>/feedback: a field that is absent leaves what was said before, null clears it.

    scores and overall_score  change the critique that is given, else the one that was served
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    thumbs: Annotated[int, Field(ge=-1, le=1)] | None = None
    note: Annotated[NulFreeText, Field(max_length=MAX_NOTE_CHARS)] | None = None
    advisor: Annotated[NulFreeText, Field(max_length=MAX_FIELD_CHARS)] | None = None
    verdict: Literal["accepted", "corrected"] | None = None
    scores: dict[str, Score] | None = None
    overall_score: Score | None = None
    critique: Critique | None = None
    who: Annotated[NulFreeText, Field(max_length=MAX_FIELD_CHARS)] | None = None

    @property
    def has_correction(self) -> bool:
        """Whether it gives another critique, or a part of one."""
        return any((self.scores, self.overall_score is not None, self.critique))


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field, named as in the body: critique.dimensions.2.score."""

    field: str
    told: str


class InvalidFeedback(Exception):
    """All that is wrong with what a person said."""

    def __init__(self, *faults: FieldError) -> None:
        self.faults = faults
        message = "; ".join(f"{fault.field} {fault.told}".strip() for fault in faults)
        super().__init__(message if len(faults) == 1 else f"{len(faults)} problems: {message}")


def parse_feedback(body: bytes | str) -> FeedbackRequest:
    """An opinion out of JSON. Raises Faults."""
    try:
        opinion = FeedbackRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidFeedback(*map(_to_field_error, error.errors(include_url=False))) from None
    faults = list(_find_field_errors(opinion))
    if faults:
        raise InvalidFeedback(*faults)
    return opinion


def iter_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every text and number in a value, each with where it stands."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        yield path, value
        return
    for key, item in items:
        yield from iter_leaves(item, f"{path}.{key}" if path else str(key))


def _find_field_errors(opinion: FeedbackRequest) -> Iterator[FieldError]:
    """What its types do not say."""
    if not opinion.model_fields_set - {"advisor", "who"}:
        yield FieldError("", "it says nothing; give thumbs, note, verdict, scores or critique")
    if opinion.thumbs == 0:
        yield FieldError("thumbs", "is 0; it can be 1, -1 or null")
    for name in opinion.scores or {}:
        if name not in DIMENSIONS:
            yield FieldError(
                f"scores.{name[:_MAX_ECHO_CHARS]}",
                f"is no dimension{suggest_name(name, DIMENSIONS)}",
            )
    for field, value in iter_leaves(opinion.critique.model_dump() if opinion.critique else {}):
        if isinstance(value, str) and "\0" in value:
            yield FieldError(f"critique.{field}", "has a NUL in it")


def _to_field_error(error: Any) -> FieldError:
    field = ".".join(str(part)[:_MAX_ECHO_CHARS] for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "missing":
        return FieldError(field, "is missing")
    if error["type"] == "extra_forbidden":
        known = tuple(FeedbackRequest.model_fields) if len(error["loc"]) == 1 else ()
        return FieldError(field, f"is no field{suggest_name(str(error['loc'][-1]), known)}")
    if error["type"] == "json_invalid" or not field:
        return FieldError("", "the body is no JSON object")
    if error["type"] == "string_too_short":
        return FieldError(field, "is empty")
    if error["type"] == "string_too_long":
        max_length = error["ctx"]["max_length"]
        return FieldError(field, f"has {len(error['input']):,} characters; most {max_length:,}")
    if isinstance(error["input"], Mapping | list | tuple):
        return FieldError(field, message)
    return FieldError(field, f"is {repr(error['input'])[:_MAX_ECHO_CHARS]}; {message}")
