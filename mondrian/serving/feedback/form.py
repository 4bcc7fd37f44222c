"""The feedback forms on a critique's page.

The fields have the names of the API (dimensions.2.score), so that an error is shown at its field.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.serving.feedback.request import FieldError, iter_leaves, mean_score

_LIST_FIELDS = ("key_strengths", "priority_improvements")  # one item per line


@dataclass(frozen=True)
class CorrectionDraft:
    values: Mapping[str, str]
    errors: Mapping[str, str]  # by field
    message: str  # errors that belong to no field


def build_feedback_body(
    form: Mapping[str, str], advisor: str, critique: Critique | None
) -> dict[str, Any]:
    """Return the API's body for a form. Which fields it has depends on the button.

    thumbs   up or down
    verdict  accepted or withdrawn
    correct  any value: the form holds a corrected critique
    """
    body: dict[str, Any] = {"advisor": advisor or None}
    if "note" in form:
        body["note"] = _clean_text(form["note"])
    if "thumbs" in form:
        body["thumbs"] = {"up": 1, "down": -1}.get(form["thumbs"], form["thumbs"])
    if "verdict" in form:
        body["verdict"] = None if form["verdict"] == "withdrawn" else form["verdict"]
    if "correct" in form and critique:
        body["critique"] = build_critique_body(form, critique)
    return body


def initial_form_values(critique: Critique) -> dict[str, str]:
    fields = json.loads(serialize_critique(critique))
    lists = {
        name: "\n".join(" ".join(item.split()) for item in fields.pop(name))
        for name in _LIST_FIELDS
    }
    texts = {name: str(value) for name, value in iter_leaves(fields) if not name.endswith(".name")}
    return texts | lists


def build_critique_body(form: Mapping[str, Any], critique: Critique) -> dict[str, Any]:
    """Return a form as the API's `critique`; fields that are absent or unchanged stay as shown.

    If scores change and the overall score does not, it becomes their mean.
    """
    before = initial_form_values(critique)
    texts = {name: _clean_text(form.get(name, value)) for name, value in before.items()}
    body: dict[str, Any] = json.loads(serialize_critique(critique))
    for name, text in texts.items():
        if text != _clean_text(before[name]):
            _set_value(body, name, _parse_value(name, text))
    scores = [dimension["score"] for dimension in body["dimensions"]]
    scores_changed = scores != [d.score for d in critique.dimensions]
    overall_changed = texts["overall_score"] != before["overall_score"]
    are_valid = all(isinstance(score, float | int) and 0 <= score <= 10 for score in scores)
    if scores_changed and not overall_changed and are_valid:
        body["overall_score"] = mean_score(scores)
    return body


def build_draft(
    critique: Critique, form: Mapping[str, Any] | None = None, errors: Iterable[FieldError] = ()
) -> CorrectionDraft:
    """Return the initial form of a critique, or a sent form with its errors."""
    initial = initial_form_values(critique)
    values = initial | {name: str(value) for name, value in (form or {}).items() if name in initial}
    error_by_name: dict[str, str] = {}
    other_errors = []
    for error in errors:
        name = error.field.removeprefix("critique.")
        name = name.split(".")[0] if name.startswith(_LIST_FIELDS) else name
        if name in values:
            error_by_name[name] = error.message
        else:
            other_errors.append(str(error))
    return CorrectionDraft(values, error_by_name, "; ".join(other_errors))


def _clean_text(value: Any) -> str:
    return str(value).strip().replace("\r\n", "\n")  # the browser counts a line end as one


def _parse_value(name: str, text: str) -> Any:
    if name in _LIST_FIELDS:
        return [line.strip() for line in text.split("\n") if line.strip()]
    if not name.endswith("score"):
        return text
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def _set_value(body: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    parent: Any = body
    for part in path:
        parent = parent[int(part) if part.isdigit() else part]
    parent[last] = value
