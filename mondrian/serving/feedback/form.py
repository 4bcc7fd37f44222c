"""The form on a critique's page: rating, note, scores and texts are sent together.

The fields have the names of the API (dimensions.2.score), so that an error is shown at its field.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mondrian.critique.schema import Critique, mean_score, serialize_critique
from mondrian.serving.feedback.request import FieldError, InvalidFeedbackError, iter_leaves

_LIST_FIELDS = ("key_strengths", "priority_improvements")  # one item per line


@dataclass(frozen=True)
class FeedbackDraft:
    """What the form shows: saved feedback, or a sent form that was not saved."""

    values: Mapping[str, str]  # in the order of the page
    changed: frozenset[str]  # fields with errors, or that differ from what is saved
    errors: Mapping[str, str]  # by field
    message: str  # errors that belong to no field

    @property
    def is_rejected(self) -> bool:
        return bool(self.errors or self.message)

    @property
    def first_error(self) -> str:
        return next((name for name in self.values if name in self.errors), "")


def build_feedback_body(
    form: Mapping[str, str], advisor: str, critique: Critique | None
) -> dict[str, Any]:
    """Return the API's body for a form. It has a critique if a score or text was changed.

    critique  that the form showed
    thumbs    up or down                  from a button, as the next two
    verdict   accepted, original (accepted as served, instead of a correction) or withdrawn
    correct   any value

    Raises InvalidFeedbackError if a button would discard changes.
    """
    body: dict[str, Any] = {"advisor": advisor or None}
    if "note" in form:
        body["note"] = _clean_text(form["note"])
    if "thumbs" in form:
        body["thumbs"] = {"up": 1, "down": -1}.get(form["thumbs"], form["thumbs"])
    verdict = form.get("verdict")
    changed = build_critique_body(form, critique) if critique else None
    if critique and changed != json.loads(serialize_critique(critique)):
        if verdict in ("original", "withdrawn"):
            message = "scores or texts were changed; save the correction, or undo the changes"
            raise InvalidFeedbackError(FieldError("", message))
        body["critique"] = changed
    elif verdict:
        body["verdict"] = {"original": "accepted", "withdrawn": None}.get(verdict, verdict)
    return body


def initial_form_values(critique: Critique) -> dict[str, str]:
    """Return the value of each field of the form, in the order of the page."""
    fields = json.loads(serialize_critique(critique))
    fields = {"overall_score": fields.pop("overall_score"), **fields}
    notes = {"technical_notes": fields.pop("technical_notes")}
    lists = {
        name: "\n".join(" ".join(item.split()) for item in fields.pop(name))
        for name in _LIST_FIELDS
    }
    texts = {name: str(value) for name, value in iter_leaves(fields) if not name.endswith(".name")}
    return texts | lists | notes


def build_critique_body(form: Mapping[str, Any], critique: Critique) -> dict[str, Any]:
    """Return a form as the API's `critique`; fields that are absent or unchanged stay as shown.

    If scores change and the overall score does not, it becomes their mean.
    """
    before = initial_form_values(critique)
    texts = {name: _clean_text(form.get(name, value)) for name, value in before.items()}
    body: dict[str, Any] = json.loads(serialize_critique(critique))
    for name, text in texts.items():
        if _differs(text, before[name]):
            _set_value(body, name, _parse_value(name, text))
    scores = [dimension["score"] for dimension in body["dimensions"]]
    scores_changed = scores != [d.score for d in critique.dimensions]
    overall_changed = texts["overall_score"] != before["overall_score"]
    are_valid = all(isinstance(score, float | int) and 0 <= score <= 10 for score in scores)
    if scores_changed and not overall_changed and are_valid:
        body["overall_score"] = mean_score(scores)
    return body


def build_draft(
    critique: Critique | None,
    note: str,
    form: Mapping[str, Any] | None = None,
    errors: Iterable[FieldError] = (),
) -> FeedbackDraft:
    """Return the form of a critique and a note, or a sent form with its errors."""
    initial = (initial_form_values(critique) if critique else {}) | {"note": note}
    values = initial | {name: str(value) for name, value in (form or {}).items() if name in initial}
    error_by_name: dict[str, str] = {}
    other_errors = []
    for error in errors:
        name = error.field.removeprefix("critique.")
        name = name.split(".")[0] if name.startswith(_LIST_FIELDS) else name
        if name.endswith("score") and name in values:
            value = values[name] or "empty"
            error_by_name[name] = f"is {value}; it must be from 0 to 10, in steps of 0.1"
        elif name in values:
            error_by_name[name] = error.message
        else:
            other_errors.append(str(error))
    changed = frozenset(name for name in values if _differs(values[name], initial[name]))
    return FeedbackDraft(
        values, changed | set(error_by_name), error_by_name, "; ".join(other_errors)
    )


def _clean_text(value: Any) -> str:
    return str(value).strip().replace("\r\n", "\n")  # the browser counts a line end as one


def _differs(text: str, other: str) -> bool:
    return _clean_text(text) != _clean_text(other)


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
