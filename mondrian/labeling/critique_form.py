"""The form of a critique: its fields as texts, and what they still lack for `link`.

Fields have the names of the service's form: dimensions.2.score. Lists have one item per line.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mondrian.core.params import LinkParams
from mondrian.critique.parser import parse_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import (
    DIMENSIONS,
    MAX_LIST_ITEMS,
    MAX_LONG_TEXT,
    MAX_SHORT_TEXT,
    mean_score,
)
from mondrian.data.lists.list_entry import entry_to_job
from mondrian.data.quality.quality_flags import find_excluding_flags, find_record_flags

SCORES = tuple(f"dimensions.{i}.score" for i in range(len(DIMENSIONS)))
_REQUIRED_TEXTS = (
    "image_description",
    *(
        f"dimensions.{i}.{part}"
        for i in range(len(SCORES))
        for part in ("comment", "recommendation")
    ),
)
_PARTS = ("score", "comment", "recommendation")  # of a dimension
REQUIRED = (*SCORES, *_REQUIRED_TEXTS)
LISTS = ("key_strengths", "priority_improvements")
OPTIONAL = ("overall_score", *LISTS, "technical_notes")
FIELDS = (*REQUIRED, *OPTIONAL)


class _StoredDimension(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal[DIMENSIONS]  # type: ignore[valid-type]
    score: float | str | None = None
    comment: str | None = None
    recommendation: str | None = None


class _StoredCritique(BaseModel):
    """A critique in a list that has no parts but those of the form; some may be missing."""

    model_config = ConfigDict(extra="forbid")
    image_description: str | None = None
    dimensions: list[_StoredDimension]
    overall_score: float | str | None = None
    key_strengths: list[str] | str | None = None
    priority_improvements: list[str] | str | None = None
    technical_notes: str | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len({dimension.name for dimension in self.dimensions}) < len(self.dimensions):
            raise ValueError("a dimension occurs twice")
        for items in (self.key_strengths, self.priority_improvements):
            if isinstance(items, list) and any("\n" in item for item in items):
                raise ValueError("an item has several lines")
        return self


@dataclass(frozen=True)
class CritiqueForm:
    """What a person has written so far; fields that are absent are empty."""

    fields: Mapping[str, str]

    @classmethod
    def from_input(cls, values: Mapping[str, Any]) -> Self:
        """Return the form of sent or stored values; other names are ignored."""
        texts = {name: _to_text(values.get(name)) for name in FIELDS}
        return cls({name: text for name, text in texts.items() if text.strip()})

    @classmethod
    def from_critique(cls, critique: Mapping[str, Any]) -> Self:
        """Return the form of a critique as a list has it; parts may be missing.

        An overall score that is the mean of the seven stays empty, so that it follows them.
        """
        values = {name: critique.get(name, "") for name in FIELDS}
        for name in LISTS:
            items = critique.get(name, [])
            values[name] = "\n".join(map(str, items)) if isinstance(items, list) else str(items)
        for position, dimension in enumerate(critique.get("dimensions", [])[: len(SCORES)]):
            name = dimension.get("name")
            i = DIMENSIONS.index(name) if name in DIMENSIONS else position
            values |= {f"dimensions.{i}.{part}": dimension.get(part) for part in _PARTS}
        form = cls.from_input(values)
        if form.mean() == _parse_score(str(values["overall_score"])):
            return cls.from_input({**values, "overall_score": ""})
        return form

    def fill_in(self, draft: Self) -> Self:
        """Return the form with its empty fields taken from a draft."""
        return type(self)({**draft.fields, **self.fields})

    def num_missing(self) -> int:
        return sum(name not in self.fields for name in REQUIRED)

    def mean(self) -> float | None:
        """Return the mean of the seven scores; None if one is missing or invalid."""
        scores = [_parse_score(self.fields.get(name, "")) for name in SCORES]
        known = [score for score in scores if score is not None]
        return mean_score(known) if len(known) == len(scores) else None

    def find_errors(self) -> dict[str, str]:
        """Return what is wrong by field; the field's label precedes it."""
        errors = {name: "is empty" for name in REQUIRED if name not in self.fields}
        return errors | dict(_find_errors(self.fields))

    def to_critique(self) -> dict[str, Any]:
        """Return a form without errors as a list has it; what is optional and empty is left out."""
        fields = {name: text.strip() for name, text in self.fields.items()}
        overall = _parse_score(fields.get("overall_score", ""))
        critique = {
            "image_description": fields["image_description"],
            "dimensions": [_to_dimension(fields, i) for i in range(len(SCORES))],
            "overall_score": _to_number(self.mean() if overall is None else overall),
            **{name: _split_lines(fields[name]) for name in LISTS if name in fields},
        }
        if "technical_notes" in fields:
            critique["technical_notes"] = fields["technical_notes"]
        return critique


def is_form_shaped(critique: Any) -> bool:
    """Return whether a form shows all of a critique in a list, so that saving it loses nothing."""
    try:
        _StoredCritique.model_validate(critique)
    except ValidationError:
        return False
    return True


def find_fault(critique: Mapping[str, Any], params: LinkParams) -> str:
    """Return why `link` would not use a critique of a list, or an empty text."""
    job = entry_to_job({"photo": "photo", "critique": critique}, "entry", "jsonl")
    parsed = parse_critique(job.text)
    if isinstance(parsed, Rejection):
        return f"{parsed.reason.description} ({parsed.detail})"
    flags = find_record_flags(job, parsed, params.overall_tolerance)
    excluded = find_excluding_flags(flags, params)
    return "; ".join(RejectionReason(flag).description for flag in excluded)


def _find_errors(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, text in fields.items():
        if name in SCORES or name == "overall_score":
            if _parse_score(text) is None:
                yield name, f"is {text.strip()[:20]}; it must be from 0 to 10, in steps of 0.1"
        elif name in LISTS:
            items = _split_lines(text)
            longest = max(map(len, items))
            if len(items) > MAX_LIST_ITEMS:
                yield name, f"has {len(items)} lines; at most {MAX_LIST_ITEMS}"
            elif longest > MAX_SHORT_TEXT:
                yield name, f"has a line of {longest} characters; at most {MAX_SHORT_TEXT}"
        elif len(text.strip()) > MAX_LONG_TEXT:
            yield name, f"has {len(text.strip()):,} characters; at most {MAX_LONG_TEXT:,}"


def _to_text(value: Any) -> str:
    """Return the text of a field; half of a surrogate pair, which no file can hold, becomes ?."""
    text = "" if value is None else str(value)
    return text.replace("\r\n", "\n").encode(errors="replace").decode()


def _parse_score(text: str) -> float | None:
    try:
        score = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return round(score, 1) if 0 <= score <= 10 and abs(score - round(score, 1)) < 1e-9 else None


def _to_dimension(fields: Mapping[str, str], i: int) -> dict[str, Any]:
    texts = {part: fields[f"dimensions.{i}.{part}"] for part in ("comment", "recommendation")}
    return {"name": DIMENSIONS[i], "score": _to_number(_parse_score(fields[SCORES[i]])), **texts}


def _to_number(score: float | None) -> float | int | None:
    return int(score) if score is not None and score.is_integer() else score


def _split_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
