"""Split HTML into blocks of visible text, as a browser would show them.

Scripts, styles and comments are not text, and block tags separate words. Elements are often not
closed; lxml closes them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree, html

HEADINGS = frozenset(f"h{level}" for level in range(1, 7))
_BLOCK_TAGS = HEADINGS | frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption "
    "figure footer form header hr html legend li main nav ol p pre section summary table tbody td "
    "tfoot th thead title tr ul".split()
)
_INVISIBLE = re.compile(r"<(?:(!--)|(script|style|noscript|template)(?=[\s/>]))", re.IGNORECASE)
_ENDS = {
    name: re.compile(rf"</{name}[^>]{{0,99}}>", re.IGNORECASE)
    for name in ("script", "style", "noscript", "template")
}
_COMMENT_END = re.compile("-->")
_HTML_START = re.compile(r"\s*<(?:!doctype|!--|/?[a-z][a-z0-9]{0,12}[\s/>])", re.IGNORECASE)
_THOUGHT_TAG = re.compile(r"\s*<(?:think|thought|tool_call|reason|reflect)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class Block:
    """A run of text inside one block element, without line breaks."""

    tag: str  # of the innermost block element
    text: str
    part: str = ""  # the innermost of the classes that the caller looks for
    card: int = 0  # number of the card that began last, if any card is open


@dataclass
class _BlockStack:
    """The open block elements, with the part and the card that each belongs to."""

    part_classes: frozenset[str]
    card_class: str
    levels: list[tuple[str, str, bool]]  # tag, part, whether a card is open
    num_cards: int = 0

    def push(self, element: Any) -> None:
        _, part, in_card = self.levels[-1]
        if classes := element_classes(element):
            if self.card_class in classes:
                self.num_cards += 1
                part, in_card = "", True
            part = min(self.part_classes & classes, default=part)
        self.levels.append((element.tag, part, in_card))

    def make_block(self, words: list[str]) -> list[Block]:
        text = " ".join("".join(words).split())
        if not text:
            return []
        tag, part, in_card = self.levels[-1]
        return [Block(tag, text, part, self.num_cards if in_card else 0)]


def is_html(text: str) -> bool:
    """Return whether a text begins with a tag of HTML, not with one of a model's reasoning."""
    return bool(_HTML_START.match(text)) and not _THOUGHT_TAG.match(text)


def remove_invisible(text: str) -> str:
    """Return HTML without comments, scripts and styles; one that never ends takes the rest."""
    parts, position = [], 0
    while opening := _INVISIBLE.search(text, position):
        parts.append(text[position : opening.start()])
        end = _ENDS[opening[2].lower()] if opening[2] else _COMMENT_END
        closing = end.search(text, opening.end())
        if closing is None:
            return " ".join(parts)
        position = closing.end()
    return " ".join((*parts, text[position:]))


def parse_page(text: str) -> Any:
    """Return the root element of HTML without invisible parts; None if nothing is left."""
    content = _CONTROL.sub(" ", text).encode("utf-8", "replace")
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        return html.document_fromstring(content, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, AssertionError):
        return None


def iter_blocks(
    root: Any,
    part_classes: frozenset[str] = frozenset(),
    card_class: str = "",
    stop: frozenset[Any] = frozenset(),
) -> Iterator[Block]:
    """Yield the blocks of an element in document order, up to an element of `stop`."""
    stack = _BlockStack(part_classes, card_class, [("", "", False)])
    words: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "start" and element in stop:
            break
        is_block = element.tag in _BLOCK_TAGS
        if is_block:
            if words:
                yield from stack.make_block(words)
                words.clear()
        if event == "start":
            if is_block:
                stack.push(element)
            if element.tag == "br":
                words.append(" ")
            elif element.text:
                words.append(element.text)
        else:
            if is_block:
                stack.levels.pop()
            if element.tail and element is not root:
                words.append(element.tail)
    yield from stack.make_block(words)


def visible_text(text: str) -> str:
    """Return the text of HTML with one block a line; other text unchanged."""
    if not is_html(text):
        return text
    page = parse_page(remove_invisible(text))
    if page is None:
        return ""
    return "\n".join(block.text for block in iter_blocks(page) if block.tag != "title")


def element_classes(element: Any) -> frozenset[str]:
    names = element.get("class")
    return frozenset(names.split()) if names else frozenset()
