"""Parse the application's HTML of a critique into the object that its JSON would be.

div.advisor-section[data-advisor] > div.analysis contains a description, a div.feedback-card for
each dimension, and the overall grade. Elements are often not closed; lxml closes them.
"""

import re
from itertools import takewhile
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
    """Return the critique in the advisor's section, or in the only one; None without cards.

    Rejections: advisor_absent if all sections are other advisors', truncated if the last card does
    not end.
    """
    if "feedback-card" not in text:
        return None
    content = _CONTROL.sub(" ", text).encode("utf-8", "replace")
    try:
        page = html.document_fromstring(content, parser=html.HTMLParser(encoding="utf-8"))
    except (etree.ParserError, etree.XMLSyntaxError, AssertionError):
        return None
    section = _find_section(page, advisor)
    if isinstance(section, Rejection):
        return section
    dimensions = _read_dimensions(section)
    if not dimensions:
        return None
    if not _CLOSING_TAG.search(text, text.rfind("feedback-recommendation")):
        return Rejection(RejectionReason.TRUNCATED, f"HTML cut off after {text[-40:]!r}")
    description = _read_description(section)
    critique: dict[str, Any] = {"image_description": description, "dimensions": dimensions}
    boxes = (box for box in section.iter("p", "div") if _classes(box) & _OVERALL)
    grades = (_parse_grade(_text(box)) for box in boxes)
    overall_score = next((grade for grade in grades if grade is not None), None)
    return critique if overall_score is None else critique | {"overall_score": overall_score}


def _find_section(page: Any, advisor: str) -> Any:
    """Return the advisor's section; the whole page if no section or no advisor is named."""
    sections = [e for e in page.iter("div", "section") if "advisor-section" in _classes(e)]
    named = {str(s.get("data-advisor", "")).strip().lower(): s for s in reversed(sections)}
    named.pop("", None)
    if not named or not advisor:
        return page
    for name, section in named.items():
        if advisor.lower() in (name, *name.split()):  # an id, or Ansel Adams
            return section
    detail = f"HTML of {', '.join(sorted(named))[:80]}, not of {advisor}"
    return Rejection(RejectionReason.ADVISOR_ABSENT, detail)


def _read_dimensions(section: Any) -> list[dict[str, Any]]:
    """Return the cards, in one pass: an element belongs to the card that began last."""
    cards: list[dict[str, Any]] = []
    for element in section.iter("div", "p", "section", "h3", "h4"):
        classes = _classes(element)
        if "feedback-card" in classes:
            cards.append({"name": "", "comment": "", "recommendation": ""})
        elif not cards:
            continue
        elif element.tag in ("h3", "h4"):
            if not cards[-1]["name"]:
                text = _text(element)
                score = _parse_grade(text)
                name = _GRADE.split(text, maxsplit=1)[0].strip(" (:-–\xa0") or text[:80]
                cards[-1] |= {"name": name} if score is None else {"name": name, "score": score}
        elif "feedback-comment" in classes and not cards[-1]["comment"]:
            cards[-1]["comment"] = _text(element)
        elif "feedback-recommendation" in classes and not cards[-1]["recommendation"]:
            cards[-1]["recommendation"] = _LABEL.sub("", _text(element))
    return cards


def _parse_grade(text: str) -> float | None:
    """Return the only grade in a text, or None."""
    grades = {float(number.replace(",", ".")) for number in _GRADE.findall(text)}
    return grades.pop() if len(grades) == 1 else None


def _read_description(section: Any) -> str:
    """Return the paragraphs that directly follow the heading "Image Analysis"."""
    for heading in section.iter("h2", "h3"):
        if "image analysis" in _text(heading).lower():
            siblings = heading.itersiblings()
            paragraphs = takewhile(lambda e: e.tag == "p" and not _classes(e) & _OVERALL, siblings)
            return " ".join(map(_text, paragraphs))
    return ""


def _classes(element: Any) -> frozenset[str]:
    return frozenset((element.get("class") or "").split())


def _text(element: Any) -> str:
    """Return an element's text; if it was never closed, only up to the next part of a card."""
    parts = []
    for event, part in etree.iterwalk(element, events=("start", "end")):
        if event == "end":
            parts.append(part.tail or "" if part is not element else "")
        elif part is not element and _PART_CLASSES & _classes(part):
            break
        elif isinstance(part.tag, str):  # not a comment
            parts.append(part.text or "")
    return " ".join("".join(parts).split())
