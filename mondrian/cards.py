"""The application's HTML of a critique -> the object that its JSON would have been.

div.advisor-section[data-advisor] > div.analysis holds a description, a div.feedback-card for each
dimension, and the overall grade. Elements are often left open; lxml closes them.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree, html

from mondrian.reason import Reason, Rejected

_GRADE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)\s{0,9}/\s{0,9}10\b")
_LABEL = re.compile(r"^(?:recommendation|how to improve)\s{0,9}:\s{0,9}", re.IGNORECASE)
_ENDS = {"feedback-card", "overall-grade", "overall-grade-box"}  # what no part of a card holds
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def read_cards(text: str, advisor: str) -> dict[str, Any] | Rejected | None:
    """The critique in the section of the advisor, or in the only one; None where no cards are.

    Rejected: advisor_absent where the sections are other advisors', unscored where a card has no
    score.
    """
    if "feedback-card" not in text:
        return None
    page = _parse(text)
    if page is None:
        return None
    section = _section(page, advisor)
    if isinstance(section, Rejected):
        return section
    cards = _with_class(section, "feedback-card")
    if not cards:
        return None
    dimensions = [_dimension(card) for card in cards]
    unscored = [d["name"] for d in dimensions if "score" not in d]
    if len(unscored) == len(dimensions):
        return Rejected(Reason.UNSCORED, f"HTML cards without scores: {', '.join(unscored)[:80]}")
    value: dict[str, Any] = {"image_description": _description(section), "dimensions": dimensions}
    grades = [_GRADE.search(_text(box)) for box in _with_class(section, "overall-grade")]
    grades += [_GRADE.search(_text(box)) for box in _with_class(section, "overall-grade-box")]
    told = [float(grade[1]) for grade in grades if grade]
    return value | ({"overall_score": told[0]} if told else {})


def _parse(text: str) -> Any:
    content = _CONTROL.sub(" ", text).encode("utf-8", "replace")
    try:
        return html.document_fromstring(content, parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, etree.XMLSyntaxError, AssertionError):
        return None


def _section(page: Any, advisor: str) -> Any:
    """The advisor's part of the page, or all of it where it has one part only."""
    sections = _with_class(page, "advisor-section")
    named = {str(s.get("data-advisor", "")).strip().lower(): s for s in reversed(sections)}
    if advisor.lower() in named:
        return named[advisor.lower()]
    if len(named) > 1:
        detail = f"HTML of {', '.join(sorted(named))[:80]}, none of {advisor}"
        return Rejected(Reason.ADVISOR_ABSENT, detail)
    return page


def _dimension(card: Any) -> dict[str, Any]:
    heading = next((_text(h) for h in card.iter("h3", "h4")), "") or _text(card)
    grade = _GRADE.search(heading)
    name = heading[: grade.start()] if grade else heading[:80]
    parts: dict[str, Any] = {"name": name.strip(" (:-–\xa0")}
    if grade:
        parts["score"] = float(grade[1])
    parts["comment"] = _first(card, "feedback-comment")
    parts["recommendation"] = _LABEL.sub("", _first(card, "feedback-recommendation"))
    return parts


def _description(section: Any) -> str:
    """The paragraphs after the heading "Image Analysis", up to whatever follows them."""
    for heading in section.iter("h2", "h3"):
        if "image analysis" in _text(heading).lower():
            paragraphs = []
            for beside in heading.itersiblings():
                if beside.tag != "p" or "overall-grade" in str(beside.get("class", "")).split():
                    break
                paragraphs.append(_text(beside))
            return " ".join(paragraphs)
    return ""


def _first(card: Any, name: str) -> str:
    return next((_text(part) for part in _with_class(card, name)), "")


def _with_class(element: Any, name: str) -> list[Any]:
    return [e for e in element.iter("div", "p", "section") if name in str(e.get("class")).split()]


def _text(element: Any) -> str:
    """What an element says, up to what follows it where it was never closed."""
    parts = []
    for event, part in etree.iterwalk(element, events=("start", "end")):
        if event == "end":
            parts.append(part.tail or "" if part is not element else "")
        elif part is not element and _ENDS & set(str(part.get("class")).split()):
            break
        elif isinstance(part.tag, str):  # no comment
            parts.append(part.text or "")
    return " ".join("".join(parts).split())
