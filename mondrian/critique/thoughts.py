"""Recognize a model's reasoning: in tags such as <think>, or as prose without an answer."""

import re

THOUGHT_TAG = re.compile(
    r"<(/?)(?:think|thinking|thoughts?|reasoning)(?:\s[^<>]{0,40})?>|\[(/?)THINK\]", re.IGNORECASE
)
_START = re.compile(
    r"\W{0,9}(?:<(?:think|thought|reason)|\[THINK\]|(?:okay|ok|alright|hmm+|got it|now|so|wait)\b[,.!: ]"
    r"|let me\b|let's\b|first,? (?:i|let)\b|the user\b|(?:i|we) (?:need|have|should|must) to\b"
    r"|(?:i'll|i will|i'm going to|we are asked|we're asked)\b|thinking process\b|my thought)",
    re.IGNORECASE,
)
_HEADING_LINES = re.compile(r"(?:\s{0,99}#{1,6} [^\n]{0,200}\n){1,9}")
_HESITATION = re.compile(
    r"\b(?:wait,|hmm\b|let me\b|the user (?:wants|asked|asks|is|said|has)|i (?:should|need to|must)\b"
    r"|maybe i\b|(?:i'll|i will) (?:write|start|say|give)\b)",
    re.IGNORECASE,
)
_MIN_HESITATIONS = 4


def remove_thoughts(text: str) -> str:
    """Return the text outside thoughts; a closing tag alone ends thoughts that began the text."""
    if THOUGHT_TAG.search(text) is None:
        return text
    parts: list[str] = []
    start, depth = 0, 0
    for tag in THOUGHT_TAG.finditer(text):
        is_closing = bool(tag[1] or tag[2])
        if not is_closing:
            if not depth:
                parts.append(text[start : tag.start()])
            depth = 1
        else:
            if not depth:
                parts.clear()
            start, depth = tag.end(), 0
    return "".join((*parts, "" if depth else text[start:]))


def is_thinking(text: str) -> bool:
    """Return whether a text without a critique is reasoning."""
    heading = _HEADING_LINES.match(text)
    body = text[heading.end() :] if heading else text
    if _START.match(body) or THOUGHT_TAG.search(text):
        return True
    hesitations = _HESITATION.findall(text[:20_000])
    return len(hesitations) >= _MIN_HESITATIONS
