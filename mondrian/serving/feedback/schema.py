"""What a person says of a critique, as JSON: checked, and every fault told with its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mondrian.critique.schema import DIMENSIONS, Critique, Score
from mondrian.serving.http.request_parsing import FIELD

NOTE = 1000  # characters of a person's note
_SHOWN = 60  # characters of a name or value that a fault repeats


def _sound(text: str) -> str:
    if "\0" in text:  # PostgreSQL keeps none
        raise ValueError("a NUL is in it")
    return text


Text = Annotated[str, AfterValidator(_sound)]


class Opinion(BaseModel):
    """POST /jobs/<id>/feedback: a field that is absent leaves what was said before, null clears it.

    scores and overall_score  change the critique that is given, else the one that was served
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    thumbs: Annotated[int, Field(ge=-1, le=1)] | None = None
    note: Annotated[Text, Field(max_length=NOTE)] | None = None
    advisor: Annotated[Text, Field(max_length=FIELD)] | None = None
    verdict: Literal["accepted", "corrected"] | None = None
    scores: dict[str, Score] | None = None
    overall_score: Score | None = None
    critique: Critique | None = None
    who: Annotated[Text, Field(max_length=FIELD)] | None = None

    @property
    def corrects(self) -> bool:
        """Whether it gives another critique, or a part of one."""
        return any((self.scores, self.overall_score is not None, self.critique))


@dataclass(frozen=True)
class Fault:
    """What is wrong with one field, named as in the body: critique.dimensions.2.score."""

    field: str
    told: str


class Faults(Exception):
    """All that is wrong with what a person said."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        told = "; ".join(f"{fault.field} {fault.told}".strip() for fault in faults)
        super().__init__(told if len(faults) == 1 else f"{len(faults)} problems: {told}")


def read_opinion(body: bytes | str) -> Opinion:
    """An opinion out of JSON. Raises Faults."""
    try:
        opinion = Opinion.model_validate_json(body)
    except ValidationError as error:
        raise Faults(*map(_fault, error.errors(include_url=False))) from None
    faults = list(_faults(opinion))
    if faults:
        raise Faults(*faults)
    return opinion


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every text and number in a value, each with where it stands."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        yield at, value
        return
    for key, item in items:
        yield from leaves(item, f"{at}.{key}" if at else str(key))


def _faults(opinion: Opinion) -> Iterator[Fault]:
    """What its types do not say."""
    if not opinion.model_fields_set - {"advisor", "who"}:
        yield Fault("", "it says nothing; give thumbs, note, verdict, scores or critique")
    if opinion.thumbs == 0:
        yield Fault("thumbs", "is 0; it can be 1, -1 or null")
    for name in opinion.scores or {}:
        if name not in DIMENSIONS:
            yield Fault(f"scores.{name[:_SHOWN]}", f"is no dimension{_nearest(name, DIMENSIONS)}")
    for field, value in leaves(opinion.critique.model_dump() if opinion.critique else {}):
        if isinstance(value, str) and "\0" in value:
            yield Fault(f"critique.{field}", "has a NUL in it")


def _fault(error: Any) -> Fault:
    field = ".".join(str(part)[:_SHOWN] for part in error["loc"])
    told = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "missing":
        return Fault(field, "is missing")
    if error["type"] == "extra_forbidden":
        known = tuple(Opinion.model_fields) if len(error["loc"]) == 1 else ()
        return Fault(field, f"is no field{_nearest(str(error['loc'][-1]), known)}")
    if error["type"] == "json_invalid" or not field:
        return Fault("", "the body is no JSON object")
    if error["type"] == "string_too_short":
        return Fault(field, "is empty")
    if error["type"] == "string_too_long":
        most = error["ctx"]["max_length"]
        return Fault(field, f"has {len(error['input']):,} characters; most {most:,}")
    if isinstance(error["input"], Mapping | list | tuple):
        return Fault(field, told)
    return Fault(field, f"is {repr(error['input'])[:_SHOWN]}; {told}")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}" if known else ""
