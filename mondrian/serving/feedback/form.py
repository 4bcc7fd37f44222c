"""The forms by which a person judges and corrects a critique on its page.

Its fields are named as the API names them, so that a fault finds its field: dimensions.2.score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.serving.feedback.merge import mean_score
from mondrian.serving.feedback.schema import FieldError, iter_leaves

LIST_FIELDS = ("key_strengths", "priority_improvements")  # an item a line


@dataclass(frozen=True)
class CorrectionDraft:
    """What stands in the form, and what is wrong with it; `told` is of no field."""

    values: Mapping[str, str]
    faults: Mapping[str, str] = field(default_factory=dict)
    told: str = ""


def build_feedback_body(
    form: Mapping[str, str], advisor: str, critique: Critique | None
) -> dict[str, Any]:
    """The body that the API would have got; which button was pressed says what it is about.

    thumbs   up or down
    verdict  accepted, or withdrawn
    correct  anything: the fields of the critique are read
    """
    body: dict[str, Any] = {"advisor": advisor or None}
    if "note" in form:
        body["note"] = _text(form["note"])
    if "thumbs" in form:
        body["thumbs"] = {"up": 1, "down": -1}.get(form["thumbs"], form["thumbs"])
    if "verdict" in form:
        body["verdict"] = None if form["verdict"] == "withdrawn" else form["verdict"]
    if "correct" in form and critique:
        body["critique"] = build_critique_body(form, critique)
    return body


def initial_form_values(critique: Critique) -> dict[str, str]:
    """What the form holds at first."""
    fields = json.loads(serialize_critique(critique))
    lists = {
        name: "\n".join(" ".join(item.split()) for item in fields.pop(name)) for name in LIST_FIELDS
    }
    texts = {name: str(value) for name, value in iter_leaves(fields) if not name.endswith(".name")}
    return texts | lists


def build_critique_body(form: Mapping[str, Any], critique: Critique) -> dict[str, Any]:
    """What was typed, as the API's `critique`; what is not in the form is as it was shown.

    An overall score that was left as it was follows the seven, where one of those is another.
    """
    before = initial_form_values(critique)
    texts = {name: _text(form.get(name, value)) for name, value in before.items()}
    body: dict[str, Any] = json.loads(serialize_critique(critique))
    for name, text in texts.items():
        if text != _text(before[name]):
            _put(body, name, _value(name, text))
    scores = [dimension["score"] for dimension in body["dimensions"]]
    moved = scores != [d.score for d in critique.dimensions]
    same = texts["overall_score"] == before["overall_score"]
    if moved and same and all(isinstance(s, float | int) and 0 <= s <= 10 for s in scores):
        body["overall_score"] = mean_score(scores)
    return body


def build_draft(
    form: Mapping[str, Any], faults: Iterable[FieldError], critique: Critique
) -> CorrectionDraft:
    """What was typed, with its faults."""
    before = initial_form_values(critique)
    values = {name: str(form.get(name, value)) for name, value in before.items()}
    fault_by_name: dict[str, str] = {}
    rest = []
    for fault in faults:
        name = fault.field.removeprefix("critique.")
        name = name.split(".")[0] if name.startswith(LIST_FIELDS) else name
        if name in values:
            fault_by_name[name] = fault.told
        else:
            rest.append(f"{fault.field} {fault.told}".strip())
    return CorrectionDraft(values, fault_by_name, "; ".join(rest))


def _text(value: Any) -> str:
    return str(value).strip().replace("\r\n", "\n")  # as a browser counts it


def _value(name: str, text: str) -> Any:
    if name in LIST_FIELDS:
        return [line.strip() for line in text.split("\n") if line.strip()]
    if not name.endswith("score"):
        return text
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def _put(body: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place: Any = body
    for part in path:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
