"""Parse the application's HTML of a critique into the object that its JSON would be.

A card a dimension has its name and score, a comment and a recommendation. Classes name the parts
of newer pages (div.feedback-card, .feedback-comment, .feedback-recommendation, .overall-grade); in
plain pages, headings and labels such as "How to Improve:" do.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from mondrian.critique.html_text import (
    HEADINGS,
    Block,
    iter_blocks,
    parse_page,
    remove_invisible,
)
from mondrian.critique.normalize import dimension_name
from mondrian.critique.rejection import Rejection, RejectionReason

_NUMBER = r"(\d{1,2}(?:[.,]\d{1,2})?)"
_GRADE = re.compile(rf"(?<![\d.,/+~−–-]){_NUMBER}\s{{0,9}}(?:/|out of)\s{{0,9}}10(?![.,]?\d)")
_SCORE_WORD = r"(?:score|grade|rating)"
_SCORE_ALONE = re.compile(rf"\W{{0,9}}{_SCORE_WORD}\s{{0,9}}:\s{{0,9}}{_NUMBER}\W{{0,9}}", re.I)
_SCORE_LABEL = re.compile(rf"(?:[\w&,/ -]{{0,40}}\b)?{_SCORE_WORD}\W{{0,9}}|\W{{0,9}}", re.I)
_NAME_END = re.compile(rf"\s{{0,9}}{_SCORE_WORD}\s{{0,9}}$", re.I)
_RECOMMENDATION = r"(?:recommendations?|how to improve|suggestions?|advice|to improve)"
_ADVICE_START = re.compile(rf"\W{{0,9}}{_RECOMMENDATION}\s{{0,9}}[:：]\s{{0,9}}", re.I)
_ADVICE_INSIDE = re.compile(
    r"(?<=\S)\s{1,9}(?:Recommendations?|How to Improve|How To Improve)\s{0,9}[:：]\s{0,9}"
)
_COMMENT_START = re.compile(
    r"(?:comments?|feedback|assessment|observations?)\s{0,9}[:：]\s{0,9}", re.I
)
_OVERALL = re.compile(rf"\W{{0,9}}(?:overall|final|total)(?:\s{_SCORE_WORD})?\b", re.I)
_OVERALL_ALONE = re.compile(
    rf"\W{{0,9}}(?:overall|final|total)\s{_SCORE_WORD}\W{{0,9}}{_NUMBER}\W?", re.I
)
_PART_BY_HEADING = {
    "image analysis": "image_description",
    "image description": "image_description",
    "description": "image_description",
    "key strengths": "key_strengths",
    "strengths": "key_strengths",
    "priority improvements": "priority_improvements",
    "areas for improvement": "priority_improvements",
    "technical notes": "technical_notes",
}
_TEXT_PARTS = ("image_description", "technical_notes")
_PART_CLASSES = frozenset(
    "feedback-comment feedback-recommendation overall-grade overall-grade-box".split()
)
_CARD_HINT = re.compile(r"feedback-card|<h[2-6]\b", re.IGNORECASE)
_LAST_BLOCK = re.compile(r"<(?:div|p|li|td|h[1-6]|section|article)\b", re.IGNORECASE)
_CLOSING_TAG = re.compile(r"</(?:div|p|li|td|h[1-6]|ul|ol|section|article)\b", re.IGNORECASE)
_SHORT = 80  # characters of a title or a grade with its label


def parse_html_cards(text: str, advisor: str) -> dict[str, Any] | Rejection | None:
    """Return the critique in the advisor's section, or in the only one; None without cards.

    Rejections: advisor_absent if all sections are other advisors', truncated if the last element
    does not end.
    """
    if text.startswith(("{", "[")) or not _CARD_HINT.search(text):
        return None
    visible = remove_invisible(text)
    page = parse_page(visible)
    if page is None:
        return None
    section, others = _find_section(page, advisor)
    if isinstance(section, Rejection):
        return section
    reader = _CardReader()
    for block in iter_blocks(section, _PART_CLASSES, "feedback-card", others):
        reader.read(block)
    critique = reader.finish()
    if not critique["dimensions"]:
        return None
    if _is_cut_off(visible):
        return Rejection(RejectionReason.TRUNCATED, f"HTML cut off after {text[-40:]!r}")
    return critique


@dataclass
class _Card:
    name: str = ""
    grades: set[float] = field(default_factory=set)
    texts: dict[str, list[str]] = field(default_factory=dict)
    part: str = "comment"  # what unclassed text belongs to
    is_element: bool = False  # an element with the class feedback-card, not only a heading

    def add(self, part: str, text: str) -> None:
        if text:
            self.texts.setdefault(part, []).append(text)

    def to_dimension(self) -> dict[str, Any]:
        """Return the card, with the text of classed elements before other text."""
        dimension: dict[str, Any] = {"name": self.name}
        for part in ("comment", "recommendation"):
            texts = self.texts.get(f"feedback-{part}") or self.texts.get(part) or []
            dimension[part] = " ".join(texts)
        return dimension | ({"score": min(self.grades)} if len(self.grades) == 1 else {})


class _CardReader:
    """Collect a critique from blocks: headings, classes and labels say what follows."""

    def __init__(self) -> None:
        self.cards: list[_Card] = []
        self.card: _Card | None = None
        self.card_number = 0  # of the last element with the class feedback-card
        self.part = ""  # of the critique, outside cards
        self.parts: dict[str, list[str]] = {}
        self.overall: set[float] = set()

    def read(self, block: Block) -> None:
        if block.card > self.card_number:
            self.card_number, self.card = block.card, _Card(is_element=True)
            self.cards.append(self.card)
            self.part = ""
        elif self.card is not None and self.card.is_element and not block.card:
            self.card = None
        if block.part.startswith("overall") or self._starts_overall(block):
            self._read_overall(block.text)
        elif self._starts_card(block):
            self._start_card(block.text)
        elif block.tag in HEADINGS and self._read_heading(block):
            pass
        elif self.part == "overall_score":
            self._read_overall(block.text)
        elif self.part:
            self.parts.setdefault(self.part, []).append(block.text)
        elif self.card is not None:
            _read_card_text(self.card, block)

    def finish(self) -> dict[str, Any]:
        dimensions = [card.to_dimension() for card in self.cards if card.name]
        critique: dict[str, Any] = {"image_description": "", "dimensions": dimensions}
        for part, texts in self.parts.items():
            critique[part] = " ".join(texts) if part in _TEXT_PARTS else texts
        if len(self.overall) == 1:
            critique["overall_score"] = min(self.overall)
        return critique

    def _starts_overall(self, block: Block) -> bool:
        is_title = (
            block.tag in HEADINGS
            or _find_grades(block.text)
            or _OVERALL_ALONE.fullmatch(block.text)
        )
        return bool(is_title and len(block.text) < _SHORT and _OVERALL.match(block.text))

    def _read_overall(self, text: str) -> None:
        """Take the grade of the text; without one, it is a heading and the grade follows."""
        grades = _find_grades(text)
        if not grades and (alone := _OVERALL_ALONE.fullmatch(text)):
            grades = {_to_number(alone[1])}
        self.overall |= grades
        self.part, self.card = "" if grades else "overall_score", None

    def _starts_card(self, block: Block) -> bool:
        """Return whether a block is the title of a card: a heading, or a name of a dimension."""
        untitled = self.card is not None and not self.card.name
        if block.part or len(block.text) > 2 * _SHORT:
            return False
        is_dimension = dimension_name(_title_name(block.text)) is not None
        if block.tag in HEADINGS:
            return is_dimension or untitled
        return untitled and is_dimension

    def _start_card(self, text: str) -> None:
        if self.card is None or self.card.name:
            self.card = _Card()
            self.cards.append(self.card)
        self.part = ""
        self.card.name = _title_name(text)
        self.card.grades |= _find_grades(text)
        if not self.card.grades and (alone := _SCORE_ALONE.search(text)):
            self.card.grades.add(_to_number(alone[1]))

    def _read_heading(self, block: Block) -> bool:
        """Return whether a heading only says what follows it."""
        label = block.text.strip(" :：.").lower()
        if self.card is not None and re.fullmatch(_RECOMMENDATION, label):
            self.card.part = "recommendation"
            return True
        if self.card is not None and _COMMENT_START.fullmatch(f"{label}:"):
            return True
        parts = (part for name, part in _PART_BY_HEADING.items() if label.endswith(name))
        self.part = next(parts, "")
        if not self.part and block.card:
            return False
        self.card = None
        return True


def _read_card_text(card: _Card, block: Block) -> None:
    """Add a block to the card's comment or recommendation, or take it as the score."""
    text = block.text
    if not block.part and len(text) < _SHORT and _read_score(card, text):
        return
    if not block.part and not card.grades and (grade := _GRADE.search(text)):
        if _SCORE_LABEL.fullmatch(text[: grade.start()]):  # "Score: 8/10. The lines …"
            card.grades.add(_to_number(grade[1]))
            text = text[grade.end() :].lstrip(" .:;,)–—-")
    if label := _ADVICE_START.match(text):
        card.part, text = "recommendation", text[label.end() :]
    part = block.part or card.part
    if part == "comment" and (label := _COMMENT_START.match(text)):
        text = text[label.end() :]
    if part.endswith("comment") and (label := _ADVICE_INSIDE.search(text)):
        card.part = "recommendation"
        card.add("recommendation", text[label.end() :])
        text = text[: label.start()]
    card.add(part, text)


def _read_score(card: _Card, text: str) -> bool:
    """Return whether a text is only a score, and take it."""
    grade = _GRADE.search(text)
    if (
        grade
        and _SCORE_LABEL.fullmatch(text[: grade.start()])
        and not text[grade.end() :].strip(" .)")
    ):
        card.grades.add(_to_number(grade[1]))
        return True
    alone = _SCORE_ALONE.fullmatch(text)
    if alone:
        card.grades.add(_to_number(alone[1]))
    return bool(alone)


def _title_name(text: str) -> str:
    """Return a title without its grade: "Composition Score: 8/10" is Composition."""
    before, _, after = _GRADE.sub("\0", text).partition("\0")
    name = _SCORE_ALONE.sub("", before).strip(" (:-–—|·\xa0") or after.strip(" ):-–—|·\xa0")
    return _NAME_END.sub("", name)[:_SHORT] or text[:_SHORT]


def _find_grades(text: str) -> set[float]:
    return {_to_number(number) for number in _GRADE.findall(text)}


def _to_number(digits: str) -> float:
    return float(digits.replace(",", "."))


def _find_section(page: Any, advisor: str) -> tuple[Any, frozenset[Any]]:
    """Return the advisor's section, and all others; the whole page if none is named."""
    sections = reversed(page.xpath("//*[@data-advisor]"))
    named = {str(s.get("data-advisor")).strip().lower(): s for s in sections}
    named.pop("", None)
    if not named or not advisor:
        return page, frozenset()
    for name, section in named.items():
        if advisor.lower() in (name, *re.split(r"[\W_]+", name)):  # an id, or Ansel Adams
            return section, frozenset(named.values()) - {section}
    detail = f"HTML of {', '.join(sorted(named))[:80]}, not of {advisor}"
    return Rejection(RejectionReason.ADVISOR_ABSENT, detail), frozenset()


def _is_cut_off(text: str) -> bool:
    """Return whether HTML ends inside a tag, or its last block with text is never closed."""
    start = max((m.start() for m in _LAST_BLOCK.finditer(text)), default=0)
    return text.rfind("<") > text.rfind(">") or not _CLOSING_TAG.search(text, start)
