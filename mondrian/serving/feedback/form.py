"""The forms by which a person judges and corrects a critique on its page.

Its fields are named as the API names them, so that a fault finds its field: dimensions.2.score.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mondrian.critique.schema import Critique, canonical
from mondrian.serving.feedback.merge import mean
from mondrian.serving.feedback.schema import Fault, leaves

LISTS = ("key_strengths", "priority_improvements")  # an item a line


@dataclass(frozen=True)
class Draft:
    """What stands in the form, and what is wrong with it; `told` is of no field."""

    values: Mapping[str, str]
    faults: Mapping[str, str] = field(default_factory=dict)
    told: str = ""


def opinion_of(form: Mapping[str, str], advisor: str, shown: Critique | None) -> dict[str, Any]:
    """The body that the API would have got; which button was pressed says what it is about.

    thumbs   up or down
    verdict  accepted, or withdrawn
    correct  anything: the fields of the critique are read
    """
    told: dict[str, Any] = {"advisor": advisor or None}
    if "note" in form:
        told["note"] = _text(form["note"])
    if "thumbs" in form:
        told["thumbs"] = {"up": 1, "down": -1}.get(form["thumbs"], form["thumbs"])
    if "verdict" in form:
        told["verdict"] = None if form["verdict"] == "withdrawn" else form["verdict"]
    if "correct" in form and shown:
        told["critique"] = body_of(form, shown)
    return told


def values_of(critique: Critique) -> dict[str, str]:
    """What the form holds at first."""
    told = json.loads(canonical(critique))
    lists = {name: "\n".join(" ".join(item.split()) for item in told.pop(name)) for name in LISTS}
    texts = {name: str(value) for name, value in leaves(told) if not name.endswith(".name")}
    return texts | lists


def body_of(form: Mapping[str, Any], shown: Critique) -> dict[str, Any]:
    """What was typed, as the API's `critique`; what is not in the form is as it was shown.

    An overall score that was left as it was follows the seven, where one of those is another.
    """
    before = values_of(shown)
    texts = {name: _text(form.get(name, value)) for name, value in before.items()}
    told: dict[str, Any] = json.loads(canonical(shown))
    for name, text in texts.items():
        if text != _text(before[name]):
            _put(told, name, _value(name, text))
    scores = [one["score"] for one in told["dimensions"]]
    moved = scores != [d.score for d in shown.dimensions]
    same = texts["overall_score"] == before["overall_score"]
    if moved and same and all(isinstance(s, float | int) and 0 <= s <= 10 for s in scores):
        told["overall_score"] = mean(scores)
    return told


def draft_of(form: Mapping[str, Any], faults: Iterable[Fault], shown: Critique) -> Draft:
    """What was typed, with its faults."""
    before = values_of(shown)
    values = {name: str(form.get(name, value)) for name, value in before.items()}
    at: dict[str, str] = {}
    rest = []
    for fault in faults:
        name = fault.field.removeprefix("critique.")
        name = name.split(".")[0] if name.startswith(LISTS) else name
        if name in values:
            at[name] = fault.told
        else:
            rest.append(f"{fault.field} {fault.told}".strip())
    return Draft(values, at, "; ".join(rest))


def _text(told: Any) -> str:
    return str(told).strip().replace("\r\n", "\n")  # as a browser counts it


def _value(name: str, text: str) -> Any:
    if name in LISTS:
        return [line.strip() for line in text.split("\n") if line.strip()]
    if not name.endswith("score"):
        return text
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def _put(told: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place: Any = told
    for part in path:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
