"""The application's HTML of a critique -> the object that its JSON would have been.

div.advisor-section[data-advisor] > div.analysis holds a description, a div.feedback-card for each
dimension, and the overall grade. Elements are often left open; lxml closes them.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree, html

from mondrian.critique.rejection import Rejection, RejectionReason

_GRADE = re.compile(r"(?<![\d.,/+~−–-])(\d{1,2}(?:[.,]\d{1,2})?)\s{0,9}/\s{0,9}10(?![.,]?\d)")
_LABEL = re.compile(r"^(?:recommendation|how to improve)\s{0,9}:\s{0,9}", re.IGNORECASE)
_CLOSING_TAG = re.compile(r"</(?:div|p|li|section|article)\b")
_OVERALL = {"overall-grade", "overall-grade-box"}
_PART_CLASSES = {"feedback-card", "feedback-comment", "feedback-recommendation"} | _OVERALL
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def parse_html_cards(text: str, advisor: str) -> dict[str, Any] | Rejection | None:
    """The critique in the section of the advisor, or in the only one; None where no cards are.

    Rejected: advisor_absent where the sections are other advisors', unscored where no card has a
    score, truncated where the last card does not end.
    """
    if "feedback-card" not in text:
        return None
    page = _parse(text)
    if page is None:
        return None
    section = _section(page, advisor)
    if isinstance(section, Rejection):
        return section
    dimensions = _dimensions(section)
    if not dimensions:
        return None
    if not any("score" in dimension for dimension in dimensions):
        names = ", ".join(dimension["name"] for dimension in dimensions)
        return Rejection(RejectionReason.UNSCORED, f"HTML cards without scores: {names[:80]}")
    if not _CLOSING_TAG.search(text, text.rfind("feedback-recommendation")):
        return Rejection(RejectionReason.TRUNCATED, f"HTML cut off after {text[-40:]!r}")
    value: dict[str, Any] = {"image_description": _description(section), "dimensions": dimensions}
    grades = (_grade(_text(box)) for box in section.iter("p", "div") if _classes(box) & _OVERALL)
    overall_score = next((grade for grade in grades if grade is not None), None)
    return value if overall_score is None else value | {"overall_score": overall_score}


def _parse(text: str) -> Any:
    content = _CONTROL.sub(" ", text).encode("utf-8", "replace")
    try:
        return html.document_fromstring(content, parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, etree.XMLSyntaxError, AssertionError):
        return None


def _section(page: Any, advisor: str) -> Any:
    """The advisor's part of the page; all of it where no part is named, or none is asked for."""
    sections = [e for e in page.iter("div", "section") if "advisor-section" in _classes(e)]
    named = {str(s.get("data-advisor", "")).strip().lower(): s for s in reversed(sections)}
    named.pop("", None)
    for name, section in named.items():
        if advisor and advisor.lower() in (name, *name.split()):  # an id, or Ansel Adams
            return section
    if named and advisor:
        detail = f"HTML of {', '.join(sorted(named))[:80]}, none of {advisor}"
        return Rejection(RejectionReason.ADVISOR_ABSENT, detail)
    return page


def _dimensions(section: Any) -> list[dict[str, Any]]:
    """The cards, in one walk over the section: a part belongs to the card that began last."""
    cards: list[dict[str, Any]] = []
    for element in section.iter("div", "p", "section", "h3", "h4"):
        classes = _classes(element)
        if "feedback-card" in classes:
            cards.append({"name": "", "comment": "", "recommendation": ""})
        elif not cards:
            continue
        elif element.tag in ("h3", "h4"):
            if not cards[-1]["name"]:
                cards[-1] |= _heading(_text(element))
        elif "feedback-comment" in classes and not cards[-1]["comment"]:
            cards[-1]["comment"] = _text(element)
        elif "feedback-recommendation" in classes and not cards[-1]["recommendation"]:
            cards[-1]["recommendation"] = _LABEL.sub("", _text(element))
    return cards


def _heading(text: str) -> dict[str, Any]:
    """The name of a dimension, and its score where one and only one is told."""
    score = _grade(text)
    name = _GRADE.split(text, maxsplit=1)[0].strip(" (:-–\xa0")
    return {"name": name or text[:80]} | ({} if score is None else {"score": score})


def _grade(text: str) -> float | None:
    grades = {float(number.replace(",", ".")) for number in _GRADE.findall(text)}
    return grades.pop() if len(grades) == 1 else None


def _description(section: Any) -> str:
    """The paragraphs after the heading "Image Analysis", up to whatever follows them."""
    for heading in section.iter("h2", "h3"):
        if "image analysis" in _text(heading).lower():
            paragraphs = []
            for beside in heading.itersiblings():
                if beside.tag != "p" or _classes(beside) & _OVERALL:
                    break
                paragraphs.append(_text(beside))
            return " ".join(paragraphs)
    return ""


def _classes(element: Any) -> frozenset[str]:
    classes = element.get("class")
    return frozenset(classes.split()) if classes else frozenset()


def _text(element: Any) -> str:
    """What an element says, up to the next part where it was never closed."""
    parts = []
    for event, part in etree.iterwalk(element, events=("start", "end")):
        if event == "end":
            parts.append(part.tail or "" if part is not element else "")
        elif part is not element and _PART_CLASSES & _classes(part):
            break
        elif isinstance(part.tag, str):  # no comment
            parts.append(part.text or "")
    return " ".join("".join(parts).split())
