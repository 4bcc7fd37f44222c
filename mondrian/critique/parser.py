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

from mondrian.critique.html_cards import read_cards
from mondrian.critique.json_extract import find_object
from mondrian.critique.normalize import shape
from mondrian.critique.rejection import Reason, Rejected
from mondrian.critique.schema import DIMENSIONS, Critique, Dimension, parse

MAX_CHARACTERS = 1_000_000  # the longest real text, thoughts and prompt included, had 60,000


@dataclass(frozen=True)
class Recovered:
    """A critique, the form it had (json or cards), and what was repaired, by name."""

    critique: Critique
    form: str
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
_KEYS = len(Critique.model_fields) + len(DIMENSIONS) * len(Dimension.model_fields)
_CONTROL = re.compile(r"<\|\w{1,40}\|>|<image>")  # would be tokenised as what it looks like
_LOOP_WINDOW, _LOOP_LEAST = 4000, 300  # characters at the end that are examined, and fewest
_LOOP_RATIO = 10  # zlib shrinks English of that length 2 to 3 times


def recover(text: str, advisor: str = "", prompts: Sequence[str] = ()) -> Recovered | Rejected:
    """Find the critique in a stored text.

    advisor  whose part is wanted where HTML has one for each of several
    prompts  what the job asked, to know an echo of it
    """
    if len(text) > MAX_CHARACTERS:
        return Rejected(Reason.TOO_LONG, f"over {MAX_CHARACTERS:,} characters")
    body = text.strip()
    if not body:
        return Rejected(Reason.NO_TEXT, "empty text")
    if "\ufffd" in body:
        return Rejected(Reason.NOT_UTF8, f"unreadable at character {body.index(chr(0xFFFD))}")
    if len(body) < 1000 and _PLACEHOLDER.search(body):
        return Rejected(Reason.ERROR_PLACEHOLDER, body[:80])
    found = _found(body, advisor)
    if found is None:
        return _prose(body, prompts)
    if isinstance(found, Recovered):
        return _fault(found, prompts) or found
    if found.reason in (Reason.TRUNCATED, Reason.MALFORMED_JSON) and _loops(body):
        return Rejected(Reason.LOOPING, f"ends in {body[-40:]!r}")
    if found.reason == Reason.OTHER_SCHEMA and _echoes(body, prompts):
        return Rejected(Reason.PROMPT_ECHO, found.detail)
    return found


def _found(body: str, advisor: str) -> Recovered | Rejected | None:
    try:
        critique = parse(body)  # as it should be, and the quick way
        if _plain(body) and all(text.strip() for text in _texts(critique)):
            return Recovered(critique, "json")
    except ValidationError:
        pass
    value = read_cards(body, advisor)
    if isinstance(value, Rejected):
        return value
    if value is not None:
        return _shaped(value, "cards", ())
    found = find_object(body)
    if found is None or isinstance(found, Rejected):
        return found
    return _shaped(found.value, "json", found.repairs)


def _plain(body: str) -> bool:
    """Whether no key stands twice, of which the last would count: so many keys, so many colons.

    A text may quote a key; then the critique is read the slow way.
    """
    return body.count('":') == _KEYS


def _shaped(value: dict[str, object], form: str, before: tuple[str, ...]) -> Recovered | Rejected:
    shaped = shape(value)
    if isinstance(shaped, Rejected):
        return shaped
    critique, repairs = shaped
    return Recovered(critique, form, (*before, *repairs))


def _fault(found: Recovered, prompts: Sequence[str]) -> Rejected | None:
    """What spoils a critique that is otherwise whole."""
    critique = found.critique
    texts = list(_texts(critique))
    if any(critique.image_description in prompt for prompt in prompts):
        return Rejected(Reason.PROMPT_ECHO, "it is the example of its own prompt")
    if wordless := next((text for text in texts if not any(map(str.isalpha, text))), None):
        return Rejected(Reason.DIMENSIONS_INCOMPLETE, f"a text without a word: {wordless[:40]!r}")
    if "punctuation" in found.repairs and any(r.startswith("extra") for r in found.repairs):
        return Rejected(Reason.MALFORMED_JSON, "its parts cannot be told from each other")
    whole = "\n".join(texts)
    if control := _CONTROL.search(whole):
        return Rejected(Reason.OTHER_SCHEMA, f"holds the control token {control[0]}")
    if not _is_latin(whole):
        return Rejected(Reason.WRONG_LANGUAGE, critique.image_description[:40])
    looping = next((text for text in texts if _loops(text)), None)
    return Rejected(Reason.LOOPING, f"ends in {looping[-40:]!r}") if looping else None


def _texts(critique: Critique) -> Iterable[str]:
    yield critique.image_description
    for dimension in critique.dimensions:
        yield from (dimension.comment, dimension.recommendation)
    yield from (*critique.key_strengths, *critique.priority_improvements)
    yield critique.technical_notes


def _prose(body: str, prompts: Sequence[str]) -> Rejected:
    """Name a text that holds no JSON and no cards."""
    start = f"{body[:60]!r}"
    if _loops(body):
        return Rejected(Reason.LOOPING, f"ends in {body[-40:]!r}")
    if not _is_latin(body):
        return Rejected(Reason.WRONG_LANGUAGE, start)
    if _THINKING.match(body):
        return Rejected(Reason.THINKING_ONLY, start)
    if _echoes(body, prompts):
        return Rejected(Reason.PROMPT_ECHO, start)
    return Rejected(Reason.UNSCORED, start)


def _echoes(body: str, prompts: Sequence[str]) -> bool:
    starts = (prompt.strip()[:100] for prompt in prompts)
    return any(s and s in body for s in starts) or bool(_INSTRUCTION.search(body[:4000].lower()))


def _loops(text: str) -> bool:
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
