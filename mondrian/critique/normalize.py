"""An object that means a critique -> Critique, and which of its parts had to be set right.

Keys are known under their misspellings, dimensions as a list or by name, in any order, with names
run together; scores as numbers or as "8/10". What an older form lacks beside the seven dimensions
(strengths, priorities, notes) is taken from the critique's own sentences.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from mondrian.core.validation import format_validation_error
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, SHORT, Critique

_CRITIQUE_FIELDS = frozenset(Critique.model_fields)
_DIMENSION_FIELDS = ("score", "comment", "recommendation")
_KEY_SPELLINGS = {
    "dimensional_analysis": "dimensions",
    "dimentions": "dimensions",
    "dimensons": "dimensions",
    "overall_grade": "overall_score",
    "overal_score": "overall_score",
    "overall_scroe": "overall_score",
    "image_desciption": "image_description",
    "image_discription": "image_description",
    "key_strenghts": "key_strengths",
    "key_strengts": "key_strengths",
    "priority_improvments": "priority_improvements",
    "technical_note": "technical_notes",
    "tehnical_notes": "technical_notes",
    "scroe": "score",
    "socre": "score",
    "sore": "score",
    "coment": "comment",
    "comments": "comment",
    "recomendation": "recommendation",
    "reccomendation": "recommendation",
    "recommendations": "recommendation",
    "recommendaton": "recommendation",
}
_SCORE = re.compile(r"\s{0,9}(\d{1,3}(?:\.\d{1,3})?)\s{0,9}(?:/\s{0,9}10)?\s{0,9}")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
JsonObject = dict[str, Any]


def _key(name: str) -> str:
    letters = re.sub(r"[^a-z]", "", name.lower().replace("&", "and").replace("colour", "color"))
    return letters.replace("and", "")


_NAMES = {_key(name): name for name in DIMENSIONS}


def dimension_name(name: str) -> str | None:
    """The dimension that a name means, however it is spelt."""
    return _NAMES.get(_key(name))


def normalize_critique(value: JsonObject) -> tuple[Critique, tuple[str, ...]] | Rejection:
    """Set right what is certain; Rejected where something of the critique itself is not there."""
    repairs: list[str] = []
    outer = _known_keys(value, _CRITIQUE_FIELDS, repairs)
    dimensions = _dimensions(outer.get("dimensions"), repairs)
    if isinstance(dimensions, Rejection):
        return dimensions
    overall = _score(outer.get("overall_score"), "overall_score", repairs)
    if isinstance(overall, Rejection):
        return overall
    outer |= {"dimensions": dimensions, "overall_score": overall}
    for name, default in _summary(dimensions).items():
        if _is_blank(outer.get(name)):
            outer[name] = default
            repairs.append(f"summary {name}")
    if _is_blank(outer.get("image_description")):
        return Rejection(RejectionReason.OTHER_SCHEMA, "there is no image_description")
    try:
        critique = Critique.model_validate_json(json.dumps(outer))
    except RecursionError:
        return Rejection(RejectionReason.OTHER_SCHEMA, "lists within lists without end")
    except ValidationError as error:
        too_long = error.errors()[0]["type"] in ("string_too_long", "too_long")
        reason = RejectionReason.TOO_LONG if too_long else RejectionReason.OTHER_SCHEMA
        return Rejection(reason, format_validation_error(error)[:120])
    return critique, tuple(dict.fromkeys(repairs))


def _is_blank(stored: Any) -> bool:
    """Nothing, white space, or a list of which an item says nothing."""
    if isinstance(stored, list):
        return not stored or any(isinstance(item, str) and not item.strip() for item in stored)
    return not stored or (isinstance(stored, str) and not stored.strip())


def _known_keys(value: JsonObject, expected_keys: Iterable[str], repairs: list[str]) -> JsonObject:
    """The wanted parts under their right names; others are left aside."""
    out = {key: value[key] for key in expected_keys if key in value}
    for key, item in value.items():
        right = _KEY_SPELLINGS.get(key, key)
        if key not in out and right in expected_keys and right not in out:
            out[right] = item
            repairs.append(f"key {key[:40]}")
        elif key not in expected_keys and key != "name":
            repairs.append(f"extra_key {key[:40]}")
    return out


def _dimensions(stored: Any, repairs: list[str]) -> list[JsonObject] | Rejection:
    named = _pair_names_with_parts(stored, repairs)
    if isinstance(named, Rejection):
        return named
    out: dict[str, JsonObject] = {}
    for stored_name, parts in named:
        name = dimension_name(stored_name)
        if name is None:
            repairs.append(f"extra_dimension {stored_name[:40]}")
        elif name in out:
            repairs.append("dimension_twice")  # the first counts; a suspicion as well
        else:
            repairs += [f"name {stored_name[:40]}"] if name != stored_name else []
            dimension = _dimension(name, parts, repairs)
            if isinstance(dimension, Rejection):
                return dimension
            out[name] = dimension
    if len(out) < len(DIMENSIONS):
        missing = ", ".join(name for name in DIMENSIONS if name not in out)
        return Rejection(
            RejectionReason.DIMENSIONS_INCOMPLETE, f"{len(named)} stored, without {missing}"
        )
    repairs += ["order"] if tuple(out) != DIMENSIONS else []
    return [out[name] for name in DIMENSIONS]


def _pair_names_with_parts(
    stored: Any, repairs: list[str]
) -> list[tuple[str, JsonObject]] | Rejection:
    """Name and parts of each dimension, from a list of objects or an object of objects."""
    if isinstance(stored, dict) and all(isinstance(d, dict) for d in stored.values()):
        repairs.append("dimensions_by_name")
        return [(str(name), parts) for name, parts in stored.items()]
    whole = isinstance(stored, list) and all(
        isinstance(d, dict) and isinstance(d.get("name"), str) for d in stored
    )
    if not whole:
        return Rejection(RejectionReason.OTHER_SCHEMA, "dimensions is not a list of named objects")
    return [(d["name"], d) for d in stored]


def _dimension(name: str, stored: JsonObject, repairs: list[str]) -> JsonObject | Rejection:
    parts = _known_keys(stored, _DIMENSION_FIELDS, repairs)
    for key in ("comment", "recommendation"):
        text = parts.get(key)
        if not isinstance(text, str) or not text.strip():
            return Rejection(RejectionReason.DIMENSIONS_INCOMPLETE, f"{name} has no {key}")
    score = _score(parts.get("score"), name, repairs)
    return score if isinstance(score, Rejection) else {"name": name, **parts, "score": score}


def _score(stored: Any, name: str, repairs: list[str]) -> float | Rejection:
    """A number of tenths from 0 to 10."""
    value = stored
    if isinstance(stored, str) and (match := _SCORE.fullmatch(stored)):
        value = float(match[1])
        repairs.append("score_as_text")
    if value is None:
        return Rejection(RejectionReason.UNSCORED, f"{name} has no score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        return Rejection(
            RejectionReason.SCORE_OUT_OF_RANGE, f"{name}: {reprlib.repr(stored)} of 10"
        )
    repairs += ["rounded"] if round(value, 1) != value else []
    return round(value, 1)


def _summary(dimensions: list[JsonObject]) -> JsonObject:
    """Strengths, priorities and notes in the words of the dimensions themselves.

    The strengths are the best three with the first sentence of their comment, the priorities the
    weakest three with theirs of the recommendation, the notes those on light and focus.
    """
    order = sorted(dimensions, key=lambda d: -d["score"])
    by_name = {d["name"]: d for d in dimensions}
    technical = [by_name[name]["comment"] for name in ("Lighting", "Focus & Sharpness")]
    return {
        "key_strengths": [
            _shorten(f"{d['name']}: {_first_sentence(d['comment'])}") for d in order[:3]
        ],
        "priority_improvements": [
            _shorten(f"{d['name']}: {_first_sentence(d['recommendation'])}") for d in order[:-4:-1]
        ],
        "technical_notes": " ".join(_shorten(_first_sentence(comment)) for comment in technical),
    }


def _first_sentence(text: str) -> str:
    return SENTENCE_END.split(text.strip(), 1)[0]


def _shorten(text: str) -> str:
    """Whole words that fit into an item of a list."""
    return text if len(text) <= SHORT else text[: SHORT - 1].rsplit(" ", 1)[0] + "…"
