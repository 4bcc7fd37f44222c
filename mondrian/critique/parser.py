"""Any stored text -> Critique, or the named reason why not.

JSON is read alone, in a fence, behind headings, prose or thoughts, and in the older spellings of
its keys; HTML in the cards of the application. What had to be repaired is told. Every other form
has its reason, so that a record is left out by name and never in silence.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mondrian.critique.html_cards import parse_html_cards
from mondrian.critique.json_extract import find_object
from mondrian.critique.normalize import normalize_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, Critique, Dimension, validate_critique

MAX_CHARACTERS = 1_000_000  # the longest real text, thoughts and prompt included, had 60,000


@dataclass(frozen=True)
class ParsedCritique:
    """A critique, the form it had (json or cards), and what was repaired, by name."""

    critique: Critique
    source_format: str
    repairs: tuple[str, ...] = ()


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
_CONTROL = re.compile(r"<\|\w{1,40}\|>|<image>")  # would be tokenised as what it looks like
_LOOP_WINDOW, _LOOP_LEAST = 4000, 300  # characters at the end that are examined, and fewest
_LOOP_RATIO = 10  # zlib shrinks English of that length 2 to 3 times


def parse_critique(
    text: str, advisor: str = "", prompts: Sequence[str] = ()
) -> ParsedCritique | Rejection:
    """Find the critique in a stored text.

    advisor  whose part is wanted where HTML has one for each of several
    prompts  what the job asked, to know an echo of it
    """
    if len(text) > MAX_CHARACTERS:
        return Rejection(RejectionReason.TOO_LONG, f"over {MAX_CHARACTERS:,} characters")
    body = text.strip()
    if not body:
        return Rejection(RejectionReason.NO_TEXT, "empty text")
    if "\ufffd" in body:
        return Rejection(
            RejectionReason.NOT_UTF8, f"unreadable at character {body.index(chr(0xFFFD))}"
        )
    if len(body) < 1000 and _PLACEHOLDER.search(body):
        return Rejection(RejectionReason.ERROR_PLACEHOLDER, body[:80])
    result = _parse_body(body, advisor)
    if result is None:
        return _reject_prose(body, prompts)
    if isinstance(result, ParsedCritique):
        return _find_fault(result, prompts) or result
    if result.reason in (RejectionReason.TRUNCATED, RejectionReason.MALFORMED_JSON) and _is_looping(
        body
    ):
        return Rejection(RejectionReason.LOOPING, f"ends in {body[-40:]!r}")
    if result.reason == RejectionReason.OTHER_SCHEMA and _is_prompt_echo(body, prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, result.detail)
    return result


def _parse_body(body: str, advisor: str) -> ParsedCritique | Rejection | None:
    try:
        critique = validate_critique(body)  # as it should be, and the quick way
        if _has_unique_keys(body) and all(text.strip() for text in _texts(critique)):
            return ParsedCritique(critique, "json")
    except ValidationError:
        pass
    value = parse_html_cards(body, advisor)
    if isinstance(value, Rejection):
        return value
    if value is not None:
        return _normalize_object(value, "cards", ())
    json_object = find_object(body)
    if json_object is None or isinstance(json_object, Rejection):
        return json_object
    return _normalize_object(json_object.value, "json", json_object.repairs)


def _has_unique_keys(body: str) -> bool:
    """Whether no key stands twice, of which the last would count: so many keys, so many colons.

    A text may quote a key; then the critique is read the slow way.
    """
    return body.count('":') == _EXPECTED_KEY_COUNT


def _normalize_object(
    value: dict[str, object], form: str, before: tuple[str, ...]
) -> ParsedCritique | Rejection:
    shaped = normalize_critique(value)
    if isinstance(shaped, Rejection):
        return shaped
    critique, repairs = shaped
    return ParsedCritique(critique, form, (*before, *repairs))


def _find_fault(result: ParsedCritique, prompts: Sequence[str]) -> Rejection | None:
    """What spoils a critique that is otherwise whole."""
    critique = result.critique
    texts = list(_texts(critique))
    if any(critique.image_description in prompt for prompt in prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, "it is the example of its own prompt")
    if wordless := next((text for text in texts if not any(map(str.isalpha, text))), None):
        return Rejection(
            RejectionReason.DIMENSIONS_INCOMPLETE, f"a text without a word: {wordless[:40]!r}"
        )
    if "punctuation" in result.repairs and any(r.startswith("extra") for r in result.repairs):
        return Rejection(RejectionReason.MALFORMED_JSON, "its parts cannot be told from each other")
    whole = "\n".join(texts)
    if control := _CONTROL.search(whole):
        return Rejection(RejectionReason.OTHER_SCHEMA, f"holds the control token {control[0]}")
    if not _is_latin(whole):
        return Rejection(RejectionReason.WRONG_LANGUAGE, critique.image_description[:40])
    looping = next((text for text in texts if _is_looping(text)), None)
    return Rejection(RejectionReason.LOOPING, f"ends in {looping[-40:]!r}") if looping else None


def _texts(critique: Critique) -> Iterable[str]:
    yield critique.image_description
    for dimension in critique.dimensions:
        yield from (dimension.comment, dimension.recommendation)
    yield from (*critique.key_strengths, *critique.priority_improvements)
    yield critique.technical_notes


def _reject_prose(body: str, prompts: Sequence[str]) -> Rejection:
    """Name a text that holds no JSON and no cards."""
    start = f"{body[:60]!r}"
    if _is_looping(body):
        return Rejection(RejectionReason.LOOPING, f"ends in {body[-40:]!r}")
    if not _is_latin(body):
        return Rejection(RejectionReason.WRONG_LANGUAGE, start)
    if _THINKING.match(body):
        return Rejection(RejectionReason.THINKING_ONLY, start)
    if _is_prompt_echo(body, prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, start)
    return Rejection(RejectionReason.UNSCORED, start)


def _is_prompt_echo(body: str, prompts: Sequence[str]) -> bool:
    starts = (prompt.strip()[:100] for prompt in prompts)
    return any(s and s in body for s in starts) or bool(_INSTRUCTION.search(body[:4000].lower()))


def _is_looping(text: str) -> bool:
    """Whether the end of a text says the same over and over."""
    end = text[-_LOOP_WINDOW:]
    words = end.split()
    if len(words) > 20 and 3 * len(set(words)) > len(words):
        return False  # too many different ones
    tail = end.encode("utf-8", "replace")
    return len(tail) >= _LOOP_LEAST and len(tail) > _LOOP_RATIO * len(zlib.compress(tail, 1))


def _is_latin(text: str) -> bool:
    if text.isascii():
        return True
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(ord(c) < 0x250 for c in letters) >= len(letters)
