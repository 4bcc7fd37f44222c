"""Normalize an object that means a critique to the schema, with the names of the repairs.

Misspelt keys and names, dimensions by name or in any order, and scores such as "8/10" are repaired.
What an older form lacks (strengths, priorities, notes) is taken from the critique's own sentences.
"""

import json
import re
import reprlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mondrian.core.validation import format_validation_error
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, FILLER_SCORE, MAX_SHORT_TEXT, Critique
from mondrian.critique.text_repair import is_placeholder

_CRITIQUE_FIELDS = frozenset(Critique.model_fields)
_DIMENSION_FIELDS = ("score", "comment", "recommendation")
_SPELLINGS = {  # other spellings and older names of each key
    "dimensions": "dimensional_analysis dimentions dimensons",
    "overall_score": "overall_grade overal_score overall_scroe",
    "image_description": "image_desciption image_discription description",
    "key_strengths": "key_strenghts key_strengts strengths",
    "priority_improvements": "priority_improvments priorities improvements weaknesses "
    "areas_for_improvement",
    "technical_notes": "technical_note tehnical_notes notes technical technical_details",
    "score": "scroe socre sore",
    "comment": "coment comments",
    "recommendation": "recomendation reccomendation recommendations recommendaton",
}
_KEY_BY_LETTERS = {
    other.replace("_", ""): key
    for key, others in _SPELLINGS.items()
    for other in (key, *others.split())
}
_LISTS, _LONG_TEXTS = ("key_strengths", "priority_improvements"), ("technical_notes",)
_NO_SCORE = re.compile(
    r"\W{0,9}(?:n\W?a|none|null|un(?:rated|scored)"
    r"|not (?:applicable|available|given|rated|scored))?\W{0,9}",
    re.IGNORECASE,
)
_SCORE = re.compile(r"\s{0,9}(\d{1,3}(?:\.\d{1,3})?)\s{0,9}(?:/\s{0,9}10)?\s{0,9}")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
JsonObject = dict[str, Any]


def _letters(name: str) -> str:
    letters = re.sub(r"[^a-z]", "", name.lower().replace("&", "and").replace("colour", "color"))
    return letters.replace("and", "")


_DIMENSION_BY_LETTERS = {_letters(name): name for name in DIMENSIONS}


def dimension_name(name: str) -> str | None:
    """Return the dimension that a name means in any spelling, or None."""
    return _DIMENSION_BY_LETTERS.get(_letters(name))


@dataclass(frozen=True)
class NormalizedCritique:
    critique: Critique
    repairs: tuple[str, ...]
    scored: bool  # False: a score is missing, and all are FILLER_SCORE


def normalize_critique(value: JsonObject) -> NormalizedCritique | Rejection:
    """Repair what is unambiguous; a Rejection if a text of the critique itself is missing."""
    repairs: list[str] = []
    if conflict := _find_conflict(value):
        return conflict
    outer = _correct_keys(value, _CRITIQUE_FIELDS, repairs)
    dimensions = _read_dimensions(outer.get("dimensions"), repairs)
    if isinstance(dimensions, Rejection):
        return dimensions
    overall = _parse_score(outer.get("overall_score"), "overall_score", repairs)
    if isinstance(overall, Rejection):
        return overall
    scored = None not in (overall, *(d["score"] for d in dimensions))
    if not scored:  # a part of the scores is of no use
        overall, dimensions = FILLER_SCORE, [d | {"score": FILLER_SCORE} for d in dimensions]
    outer |= {"dimensions": dimensions, "overall_score": overall}
    for name, default in _summarize(dimensions).items():
        if _is_blank(outer.get(name)) or _has_placeholder(outer[name]):
            outer[name] = default
            repairs.append(f"summary {name}")
    if _is_blank(outer.get("image_description")):
        return Rejection(RejectionReason.OTHER_SCHEMA, "image_description is missing")
    try:
        critique = Critique.model_validate_json(json.dumps(outer))
    except RecursionError:
        return Rejection(RejectionReason.OTHER_SCHEMA, "lists nested too deeply")
    except ValidationError as error:
        too_long = error.errors()[0]["type"] in ("string_too_long", "too_long")
        reason = RejectionReason.TOO_LONG if too_long else RejectionReason.OTHER_SCHEMA
        return Rejection(reason, format_validation_error(error)[:120])
    return NormalizedCritique(critique, tuple(dict.fromkeys(repairs)), scored)


def find_extra_scores(value: JsonObject) -> tuple[float, ...]:
    """Return the valid scores of dimensions that are not among the seven."""
    stored = _correct_keys(value, ("dimensions",), []).get("dimensions")
    if isinstance(stored, dict):
        stored = [{"name": name, **parts} for name, parts in stored.items()]
    names_and_scores = (
        (str(parts.get("name")), _correct_keys(parts, ("score",), []).get("score"))
        for parts in stored or ()
    )
    scores = (_parse_score(s, name, []) for name, s in names_and_scores if not dimension_name(name))
    return tuple(score for score in scores if isinstance(score, int | float))


def _is_blank(stored: Any) -> bool:
    """Return whether a value is empty, white space, or a list with a blank item."""
    if isinstance(stored, list):
        return not stored or any(isinstance(item, str) and not item.strip() for item in stored)
    return not stored or (isinstance(stored, str) and not stored.strip())


def _has_placeholder(stored: Any) -> bool:
    items = stored if isinstance(stored, list) else [stored]
    return any(isinstance(item, str) and is_placeholder(item) for item in items)


def _find_conflict(value: JsonObject) -> Rejection | None:
    """Return a Rejection if a score is stored under two spellings with different values."""
    stored = value.get("dimensions") or value.get("dimensional_analysis")
    items = stored.values() if isinstance(stored, dict) else stored
    for parts in (value, *(items if isinstance(items, Collection) else ())):
        scores: JsonObject = {}
        for key, item in parts.items() if isinstance(parts, dict) else ():
            schema_key = _to_schema_key(key)
            is_score = schema_key in ("score", "overall_score")
            if is_score and scores.setdefault(schema_key, item) != item:
                first_score = reprlib.repr(scores[schema_key])
                detail = f"two values of {schema_key}: {first_score}, {key[:40]}"
                return Rejection(RejectionReason.MALFORMED_JSON, detail)
    return None


def _to_schema_key(key: str) -> str:
    """Return the schema's key for a spelling such as imageDescription; else the key itself."""
    return _KEY_BY_LETTERS.get(re.sub("[^a-z]", "", key.lower()), key)


def _correct_keys(value: JsonObject, keys: Collection[str], repairs: list[str]) -> JsonObject:
    """Return the expected parts under their correct keys, without all others."""
    corrected = {key: _correct_form(key, value[key], repairs) for key in keys if key in value}
    for key, item in value.items():
        schema_key = _to_schema_key(key)
        is_free = schema_key not in corrected or _is_blank(corrected[schema_key])
        form = _correct_form(schema_key, item, repairs) if is_free and key not in keys else None
        if form is not None and schema_key in keys and _has_form(schema_key, form):
            corrected[schema_key] = form
            repairs.append(f"key {key[:40]}")
        elif key not in keys and key != "name":
            repairs.append(f"extra_key {key[:40]}")
    return corrected


def _correct_form(key: str, item: Any, repairs: list[str]) -> Any:
    """Return a list for one text, and one text for a list or an object of texts."""
    form = item
    if key in _LISTS and isinstance(item, str) and item.strip():
        form = SENTENCE_END.split(item.strip()) if len(item) > MAX_SHORT_TEXT else [item.strip()]
    elif key in _LONG_TEXTS and isinstance(item, list) and _are_texts(item):
        form = " ".join(item)
    elif key in _LONG_TEXTS and isinstance(item, dict) and _are_texts(item.values()):
        form = " ".join(f"{name}: {text}" for name, text in item.items())
    if form is not item:
        repairs.append(f"form {key}")
    return form


def _has_form(key: str, item: Any) -> bool:
    """Return whether a part under another key has the form of the part that it may mean."""
    if key in _LISTS:
        return isinstance(item, list) and _are_texts(item)
    return isinstance(item, str) or key not in (*_LONG_TEXTS, "image_description")


def _are_texts(items: Iterable[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _read_dimensions(stored: Any, repairs: list[str]) -> list[JsonObject] | Rejection:
    if isinstance(stored, dict) and all(isinstance(parts, dict) for parts in stored.values()):
        repairs.append("dimensions_by_name")
        stored = [parts | {"name": str(name)} for name, parts in stored.items()]
    if not isinstance(stored, list) or not all(
        isinstance(parts, dict) and isinstance(parts.get("name"), str) for parts in stored
    ):
        return Rejection(RejectionReason.OTHER_SCHEMA, "dimensions is not a list of named objects")
    dimension_by_name: dict[str, JsonObject] = {}
    for parts in stored:
        name = dimension_name(parts["name"])
        if name is None:
            repairs.append(f"extra_dimension {parts['name'][:40]}")
        elif name in dimension_by_name:
            repairs.append("dimension_twice")  # the first one counts; it is a quality flag as well
        else:
            repairs += [f"name {parts['name'][:40]}"] if name != parts["name"] else []
            dimension = _read_dimension(name, parts, repairs)
            if isinstance(dimension, Rejection):
                return dimension
            dimension_by_name[name] = dimension
    if missing := ", ".join(name for name in DIMENSIONS if name not in dimension_by_name):
        detail = f"{len(stored)} stored, without {missing}"
        return Rejection(RejectionReason.DIMENSIONS_INCOMPLETE, detail)
    repairs += ["order"] if tuple(dimension_by_name) != DIMENSIONS else []
    return [dimension_by_name[name] for name in DIMENSIONS]


def _read_dimension(name: str, stored: JsonObject, repairs: list[str]) -> JsonObject | Rejection:
    parts = _correct_keys(stored, _DIMENSION_FIELDS, repairs)
    for key in ("comment", "recommendation"):
        text = parts.get(key)
        if not isinstance(text, str) or not text.strip():
            return Rejection(RejectionReason.DIMENSIONS_INCOMPLETE, f"{name} has no {key}")
    score = _parse_score(parts.get("score"), name, repairs)
    return score if isinstance(score, Rejection) else {"name": name, **parts, "score": score}


def _parse_score(stored: Any, name: str, repairs: list[str]) -> float | None | Rejection:
    """Return a score rounded to tenths, or None if there is none."""
    if stored is None or (isinstance(stored, str) and _NO_SCORE.fullmatch(stored)):
        return None
    value = stored
    if isinstance(stored, str) and (match := _SCORE.fullmatch(stored)):
        value = float(match[1])
        repairs.append("score_as_text")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        detail = f"{name}: {reprlib.repr(stored)} of 10"
        return Rejection(RejectionReason.SCORE_OUT_OF_RANGE, detail)
    repairs += ["rounded"] if round(value, 1) != value else []
    return round(value, 1)


def _summarize(dimensions: list[JsonObject]) -> JsonObject:
    """Return the first sentence of some dimensions as strengths, priorities and notes."""
    order = sorted(dimensions, key=lambda dimension: -dimension["score"])
    by_name = {dimension["name"]: dimension for dimension in dimensions}

    def items(ranked: list[JsonObject], key: str) -> list[str]:
        return [_first_sentence(d[key], f"{d['name']}: ") for d in ranked]

    technical = (by_name[name]["comment"] for name in ("Lighting", "Focus & Sharpness"))
    return {
        "key_strengths": items(order[:3], "comment"),
        "priority_improvements": items(order[:-4:-1], "recommendation"),
        "technical_notes": " ".join(map(_first_sentence, technical)),
    }


def _first_sentence(text: str, prefix: str = "") -> str:
    """Return the first sentence, cut after a whole word if it does not fit into a list item."""
    item = prefix + SENTENCE_END.split(text.strip(), 1)[0]
    return (
        item if len(item) <= MAX_SHORT_TEXT else item[: MAX_SHORT_TEXT - 1].rsplit(" ", 1)[0] + "…"
    )
