"""Any stored text -> Critique, or the named reason why not.

Understood now: a critique as JSON, alone, in a fence, or behind headings or prose. Every other form
is named, so that a record is left out by its reason and never in silence.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from mondrian.critique import DIMENSIONS, Critique, canonical, explain


class Reason(StrEnum):
    """Why a finished job gives no training pair: the closed list."""

    NO_TEXT = "no_text"  # no critique anywhere
    ERROR_PLACEHOLDER = "error_placeholder"  # an error message saved as if it were a critique
    UNSUPPORTED_FORM = "unsupported_form"  # HTML, tables, prose: not JSON
    TRUNCATED = "truncated"  # JSON that is cut off
    MALFORMED_JSON = "malformed_json"
    OTHER_SCHEMA = "other_schema"  # JSON, but not of a critique
    DIMENSIONS_INCOMPLETE = "dimensions_incomplete"  # not exactly the seven
    WRONG_LANGUAGE = "wrong_language"  # most letters are not Latin
    SCORE_OUT_OF_RANGE = "score_out_of_range"
    ADVISOR_ABSENT = "advisor_absent"  # asked of several advisors, this one did not answer
    IMAGE_MISSING = "image_missing"
    IMAGE_OUTSIDE_SOURCE = "image_outside_source"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_BLANK = "image_blank"
    TEMPLATE_SCORES = "template_scores"  # the scores of the example in its own prompt
    MADE_BY_ADAPTER = "made_by_adapter"  # written by an earlier fine-tuned model
    SHARED_TEXT = "shared_text"  # one text for different photographs
    WRONG_PICTURE = "wrong_picture"  # one photograph, many unlike critiques
    DUPLICATE = "duplicate"  # the same photograph with the same text again


@dataclass(frozen=True)
class Rejected:
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Recovered:
    critique: Critique
    form: str  # json, fenced or headed


_PLACEHOLDER = re.compile(
    r"^\W*(?:p>)?\s*(?:error\b|failed to parse model response)|cannot connect to ai service"
    r"|API returned [45]\d\d|Advisor not found in database",
    re.IGNORECASE,
)
_KEYS = ('"image_description"', '"dimensions"', '"dimensional_analysis"', '"overall_score"')
_HTML = re.compile(r"<(?!think|thought)")
_CONTROL = re.compile(r"<\|\w+\|>|<image>")  # would be tokenised as what it looks like
_TRIES = 20  # opening braces that are tried before a text counts as malformed


def recover(text: str) -> Recovered | Rejected:
    """Find the critique in a stored text."""
    body = text.strip()
    if not body:
        return Rejected(Reason.NO_TEXT, "empty text")
    if len(body) < 1000 and _PLACEHOLDER.search(body):
        return Rejected(Reason.ERROR_PLACEHOLDER, body[:80])
    if _HTML.match(body) or "feedback-card" in body:
        return Rejected(Reason.UNSUPPORTED_FORM, "HTML")
    if "{" not in body:
        return Rejected(Reason.UNSUPPORTED_FORM, f"no JSON: {body[:60]!r}")
    return _from_json(body)


def _from_json(body: str) -> Recovered | Rejected:
    decoder, fault, other = json.JSONDecoder(), None, ""
    start = body.find("{")
    form = "json" if start == 0 else "fenced" if body.startswith("```") else "headed"
    for _ in range(_TRIES):
        if start < 0:
            break
        try:
            value, _ = decoder.raw_decode(body, start)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
            fault = fault or error
        else:
            if _is_critique(value):
                return _validate(value, form)
            other = other or f"keys {', '.join(list(value)[:6])}"
        start = body.find("{", start + 1)
    if other and not fault:
        return Rejected(Reason.OTHER_SCHEMA, other)
    return _broken(body, fault)


def _is_critique(value: Any) -> bool:
    """An object of a critique's outer level, not one of its dimensions."""
    return any(key in value for key in ("dimensions", "dimensional_analysis", "image_description"))


def _broken(body: str, fault: Exception | None) -> Rejected:
    if not any(key in body for key in _KEYS):
        return Rejected(Reason.UNSUPPORTED_FORM, f"no JSON of a critique: {body[:60]!r}")
    tail = body.rstrip("`\n ")
    if isinstance(fault, json.JSONDecodeError) and not tail.endswith("}"):
        return Rejected(Reason.TRUNCATED, f"cut off after {tail[-40:]!r}")
    return Rejected(Reason.MALFORMED_JSON, str(fault)[:120])


def _validate(value: dict[str, Any], form: str) -> Recovered | Rejected:
    names = _names(value.get("dimensions"))
    if names is None:
        return Rejected(Reason.OTHER_SCHEMA, "dimensions is not a list of named objects")
    if names != list(DIMENSIONS):
        return Rejected(Reason.DIMENSIONS_INCOMPLETE, f"{len(names)}: {', '.join(names)[:100]}")
    try:
        critique = Critique.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        by_score = first["loc"][-1:] in (("score",), ("overall_score",))
        range_fault = by_score and first["type"] != "missing"
        reason = Reason.SCORE_OUT_OF_RANGE if range_fault else Reason.OTHER_SCHEMA
        return Rejected(reason, explain(error)[:120])
    if control := _CONTROL.search(canonical(critique)):
        return Rejected(Reason.OTHER_SCHEMA, f"holds the control token {control[0]}")
    if not _is_latin(critique.image_description):
        return Rejected(Reason.WRONG_LANGUAGE, critique.image_description[:40])
    return Recovered(critique, form)


def _is_latin(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(ord(c) < 0x250 for c in letters) >= len(letters)


def _names(dimensions: Any) -> list[str] | None:
    if not isinstance(dimensions, list):
        return None
    if not all(isinstance(d, dict) and isinstance(d.get("name"), str) for d in dimensions):
        return None
    return [d["name"] for d in dimensions]
