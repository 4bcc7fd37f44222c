"""A feedback request: its fields, their validation, and the values to store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mondrian.core.validation import suggest_name
from mondrian.critique.parser import parse_critique
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import DIMENSIONS, Critique, Score, mean_score, serialize_critique
from mondrian.serving.http.request_parsing import MAX_FIELD_CHARS

MAX_NOTE_CHARS = 1000
_MAX_ECHO_CHARS = 60  # of a name or value repeated in an error message


def _reject_nul(text: str) -> str:
    if "\0" in text:  # PostgreSQL cannot store it
        raise ValueError("it contains a NUL character")
    return text


NulFreeText = Annotated[str, AfterValidator(_reject_nul)]
_Name = Annotated[NulFreeText, Field(max_length=MAX_FIELD_CHARS)]


class FeedbackRequest(BaseModel):
    """POST /jobs/<id>/feedback. An absent field keeps the last value, null clears it.

    scores, overall_score  change `critique` if it is sent, else the served critique
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    thumbs: Annotated[int, Field(ge=-1, le=1)] | None = None
    note: Annotated[NulFreeText, Field(max_length=MAX_NOTE_CHARS)] | None = None
    advisor: _Name | None = None
    verdict: Literal["accepted", "corrected"] | None = None
    scores: dict[str, Score] | None = None
    overall_score: Score | None = None
    critique: Critique | None = None
    who: _Name | None = None

    @property
    def has_correction(self) -> bool:
        return any((self.scores, self.overall_score is not None, self.critique))


@dataclass(frozen=True)
class FieldError:
    """An error in one field, named by its path in the body: critique.dimensions.2.score."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} {self.message}".strip()


class InvalidFeedbackError(Exception):
    """All errors of one feedback request."""

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        message = "; ".join(map(str, errors))
        super().__init__(message if len(errors) == 1 else f"{len(errors)} problems: {message}")


def parse_feedback(body: bytes | str) -> FeedbackRequest:
    """Parse and validate a JSON body. Raises InvalidFeedbackError."""
    try:
        request = FeedbackRequest.model_validate_json(body)
    except ValidationError as error:
        raise InvalidFeedbackError(*map(_to_field_error, error.errors(include_url=False))) from None
    errors = list(_find_field_errors(request))
    if errors:
        raise InvalidFeedbackError(*errors)
    return request


def build_feedback_values(
    request: FeedbackRequest, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    """Return the values for `add_feedback`. A correction without changes is an acceptance.

    served   the critique that the feedback is about; None if the answer was not a valid critique
    prompts  of the job; a correction that repeats one is rejected

    Raises InvalidFeedbackError.
    """
    fields_set = request.model_fields_set
    names = [name for name in ("thumbs", "note", "who") if name in fields_set]
    values: dict[str, Any] = {name: getattr(request, name) for name in names}
    if "note" in values:
        values["note"] = (values["note"] or "").strip() or None
    if request.has_correction:
        return values | _correction_values(request, advisor, served, prompts)
    if "verdict" in fields_set:
        _check_verdict(request, served)
        return values | {"verdict": request.verdict, "critique": None}
    return values


def count_changes(before: Critique, after: Critique) -> tuple[int, int]:
    """Return how many scores (with the overall score) and how many texts differ."""
    old, new = (dict(iter_leaves(critique.model_dump())) for critique in (before, after))
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    score_count = sum(name.endswith("score") for name in changed)
    return score_count, len(changed) - score_count


def iter_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every text and number in a nested value with its path: dimensions.2.score."""
    if not isinstance(value, Mapping | list | tuple):
        yield path, value
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from iter_leaves(item, f"{path}.{key}" if path else str(key))


def _apply_correction(request: FeedbackRequest, served: Critique | None) -> Critique:
    """Return the corrected critique; if scores change, the overall score becomes their mean."""
    base = request.critique or served
    if base is None:
        raise _error("critique", "is missing; the answer is not a valid critique to correct")
    scores, overall = request.scores or {}, request.overall_score
    dimensions = tuple(
        d.model_copy(update={"score": scores.get(d.name, d.score)}) for d in base.dimensions
    )
    if overall is None:
        changed = dimensions != base.dimensions
        overall = mean_score([d.score for d in dimensions]) if changed else base.overall_score
    return base.model_copy(update={"dimensions": dimensions, "overall_score": overall})


def _correction_values(
    request: FeedbackRequest, advisor: str, served: Critique | None, prompts: Sequence[str]
) -> dict[str, Any]:
    corrected = serialize_critique(_apply_correction(request, served))
    if request.verdict is None and "verdict" in request.model_fields_set:
        raise _error("verdict", "is null, but there is a correction; leave out one of them")
    parsed = parse_critique(corrected, advisor, prompts)
    if isinstance(parsed, Rejection):
        raise _error("critique", f"cannot be used for training: {parsed.reason}, {parsed.detail}")
    if serialize_critique(parsed.critique) != corrected:
        raise _error("critique", f"has text that link would replace: {', '.join(parsed.repairs)}")
    if served is not None and corrected == serialize_critique(served):
        return {"verdict": "accepted", "critique": None}
    if request.verdict == "accepted":
        raise _error("verdict", "is accepted, but there is a correction; set it to corrected")
    return {"verdict": "corrected", "critique": corrected}


def _check_verdict(request: FeedbackRequest, served: Critique | None) -> None:
    if request.verdict == "corrected":
        raise _error("verdict", "is corrected; add scores, overall_score or critique")
    if request.verdict and served is None:
        raise _error("verdict", "is accepted, but the answer is not a valid critique")


def _find_field_errors(request: FeedbackRequest) -> Iterator[FieldError]:
    """Yield the errors that the types of the fields do not exclude."""
    if not request.model_fields_set - {"advisor", "who"}:
        yield FieldError("", "no feedback; add thumbs, note, verdict, scores or critique")
    if request.thumbs == 0:
        yield FieldError("thumbs", "is 0; it can be 1, -1 or null")
    for name in request.scores or {}:
        if name not in DIMENSIONS:
            message = f"is not a dimension{suggest_name(name, DIMENSIONS)}"
            yield FieldError(f"scores.{name[:_MAX_ECHO_CHARS]}", message)
    for field, value in iter_leaves(request.critique.model_dump() if request.critique else {}):
        if isinstance(value, str) and "\0" in value:
            yield FieldError(f"critique.{field}", "contains a NUL character")


def _to_field_error(error: Any) -> FieldError:
    kind, value = error["type"], error["input"]
    field = ".".join(str(part)[:_MAX_ECHO_CHARS] for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if kind == "extra_forbidden":
        known = FeedbackRequest.model_fields if len(error["loc"]) == 1 else ()
        message = f"is not a field{suggest_name(str(error['loc'][-1]), known)}"
    elif kind == "missing":
        message = "is missing"
    elif kind == "json_invalid" or not field:
        return FieldError("", "the body is not a JSON object")
    elif kind == "string_too_short":
        message = "is empty"
    elif kind == "string_too_long":
        message = f"has {len(value):,} characters; at most {error['ctx']['max_length']:,}"
    elif not isinstance(value, Mapping | list | tuple):
        message = f"is {repr(value)[:_MAX_ECHO_CHARS]}; {message}"
    return FieldError(field, message)


def _error(field: str, message: str) -> InvalidFeedbackError:
    return InvalidFeedbackError(FieldError(field, message))
