"""Parse any stored text into a Critique, or reject it with a reason code.

Critiques are JSON (plain, in a fence, after headings, prose or reasoning, with older or misspelt
keys) or the application's HTML cards; every other kind of text has its reason code.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mondrian.critique.html_cards import parse_html_cards
from mondrian.critique.json_extract import ExtractedObject, extract_object
from mondrian.critique.normalize import normalize_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, Critique, Dimension, validate_critique

MAX_CHARACTERS = 1_000_000  # the longest real text, with reasoning and prompt, had 60,000


@dataclass(frozen=True)
class ParsedCritique:
    """A critique, its source format (json or cards), and the names of the repairs."""

    critique: Critique
    source_format: str
    repairs: tuple[str, ...] = ()
    scored: bool = True  # False: a score is missing, and all are FILLER_SCORE


_PLACEHOLDER = re.compile(
    r"^\W{0,20}(?:p>)?\s{0,20}(?:error\b|failed to parse model response)"
    r"|cannot connect to ai service|API returned [45]\d\d|Advisor not found in database",
    re.IGNORECASE,
)
_THINKING = re.compile(
    r"\W{0,9}(?:<th|okay|ok,|alright|hmm|wait,|let me|let's|so,|first, (?:i|let)|got it|the user"
    r"|(?:i|we) need to|now,)",
    re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"(?:analy[sz]e|evaluate|critique) (?:the|this) (?:photo|image|picture)|your task is"
    r"|(?:reply|respond|answer) (?:only )?(?:with|in) (?:valid )?json|output format",
)
_EXPECTED_KEY_COUNT = len(Critique.model_fields) + len(DIMENSIONS) * len(Dimension.model_fields)
_CONTROL = re.compile(r"<\|\w{1,40}\|>|<image>")  # would be tokenized as a control token
_LOOP_WINDOW, _LOOP_MIN_BYTES = 4000, 300  # characters at the end that are checked
_LOOP_RATIO = 10  # zlib shrinks English of that length 2 to 3 times


def parse_critique(
    text: str, advisor: str = "", prompts: Sequence[str] = (), accept_unscored: bool = False
) -> ParsedCritique | Rejection:
    """Parse the critique in a stored text.

    advisor          the one to take from HTML of several advisors
    prompts          prompts of the job, to recognize an echo of them
    accept_unscored  return a critique that is complete but for its scores, with `scored` False
    """
    if len(text) > MAX_CHARACTERS:
        return Rejection(RejectionReason.TOO_LONG, f"over {MAX_CHARACTERS:,} characters")
    body = text.strip()
    if not body:
        return Rejection(RejectionReason.NO_TEXT, "empty text")
    if (offset := body.find("\ufffd")) >= 0:
        return Rejection(RejectionReason.NOT_UTF8, f"unreadable at character {offset}")
    if len(body) < 1000 and _PLACEHOLDER.search(body):
        return Rejection(RejectionReason.ERROR_PLACEHOLDER, body[:80])
    result = _parse_body(body, advisor)
    if result is None:
        return _reject_prose(body, prompts)
    if isinstance(result, ParsedCritique):
        problem = _find_problem(result, prompts)
        if problem is None and not (result.scored or accept_unscored):
            return Rejection(RejectionReason.UNSCORED, "complete but for a score")
        return problem or result
    if result.reason in (RejectionReason.TRUNCATED, RejectionReason.MALFORMED_JSON):
        return _find_loop(body) or result
    if result.reason == RejectionReason.OTHER_SCHEMA and _is_prompt_echo(body, prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, result.detail)
    return result


def _parse_body(body: str, advisor: str) -> ParsedCritique | Rejection | None:
    try:
        critique = validate_critique(body)  # canonical text, the fast path
        # As many colons as keys: no key occurs twice, of which the last would count.
        has_unique_keys = body.count('":') == _EXPECTED_KEY_COUNT
        if has_unique_keys and all(text.strip() for text in _texts(critique)):
            return ParsedCritique(critique, "json")
    except ValidationError:
        pass
    cards = parse_html_cards(body, advisor)
    if isinstance(cards, Rejection):
        return cards
    extracted = extract_object(body) if cards is None else ExtractedObject(cards, ())
    if extracted is None or isinstance(extracted, Rejection):
        return extracted
    normalized = normalize_critique(extracted.value)
    if isinstance(normalized, Rejection):
        if cards and not any("score" in dimension for dimension in cards["dimensions"]):
            detail = f"HTML cards without scores; {normalized.detail}"
            return Rejection(RejectionReason.UNSCORED, detail)
        return normalized
    source_format = "json" if cards is None else "cards"
    repairs = (*extracted.repairs, *normalized.repairs)
    return ParsedCritique(normalized.critique, source_format, repairs, normalized.scored)


def _find_problem(result: ParsedCritique, prompts: Sequence[str]) -> Rejection | None:
    """Return why a critique that is otherwise complete cannot be used."""
    critique = result.critique
    texts = list(_texts(critique))
    if any(critique.image_description in prompt for prompt in prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, "it is the example of its own prompt")
    if wordless := next((text for text in texts if not any(map(str.isalpha, text))), None):
        detail = f"a text without a word: {wordless[:40]!r}"
        return Rejection(RejectionReason.DIMENSIONS_INCOMPLETE, detail)
    if "punctuation" in result.repairs and any(r.startswith("extra") for r in result.repairs):
        return Rejection(RejectionReason.MALFORMED_JSON, "its parts cannot be separated")
    joined = "\n".join(texts)
    if control := _CONTROL.search(joined):
        return Rejection(RejectionReason.OTHER_SCHEMA, f"contains the control token {control[0]}")
    if not _is_latin(joined):
        return Rejection(RejectionReason.WRONG_LANGUAGE, critique.image_description[:40])
    return next(filter(None, map(_find_loop, texts)), None)


def _texts(critique: Critique) -> Iterable[str]:
    yield critique.image_description
    for dimension in critique.dimensions:
        yield from (dimension.comment, dimension.recommendation)
    yield from (*critique.key_strengths, *critique.priority_improvements)
    yield critique.technical_notes


def _reject_prose(body: str, prompts: Sequence[str]) -> Rejection:
    if loop := _find_loop(body):
        return loop
    reason = RejectionReason.UNSCORED
    if not _is_latin(body):
        reason = RejectionReason.WRONG_LANGUAGE
    elif _THINKING.match(body):
        reason = RejectionReason.THINKING_ONLY
    elif _is_prompt_echo(body, prompts):
        reason = RejectionReason.PROMPT_ECHO
    return Rejection(reason, f"{body[:60]!r}")


def _is_prompt_echo(body: str, prompts: Sequence[str]) -> bool:
    starts = (prompt.strip()[:100] for prompt in prompts)
    return any(s and s in body for s in starts) or bool(_INSTRUCTION.search(body[:4000].lower()))


def _find_loop(text: str) -> Rejection | None:
    tail = text[-_LOOP_WINDOW:]
    words = tail.split()
    if len(words) > 20 and 3 * len(set(words)) > len(words):
        return None  # too many different words
    content = tail.encode("utf-8", "replace")
    if len(content) < _LOOP_MIN_BYTES or len(content) <= _LOOP_RATIO * len(
        zlib.compress(content, 1)
    ):
        return None
    return Rejection(RejectionReason.LOOPING, f"ends in {text[-40:]!r}")


def _is_latin(text: str) -> bool:
    if text.isascii():
        return True
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(ord(c) < 0x250 for c in letters) >= len(letters)
