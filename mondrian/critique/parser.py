"""Parse any stored text into a Critique, or reject it with a reason code.

Critiques are JSON (plain, in a fence, after headings, prose or reasoning, with older or misspelt
keys) or the application's HTML cards; every other kind of text has its reason code.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mondrian.critique.diagnosis import explain_rejection, find_loop, is_latin
from mondrian.critique.html_cards import parse_html_cards
from mondrian.critique.html_text import is_html, remove_invisible
from mondrian.critique.json_extract import ExtractedObject, extract_object
from mondrian.critique.normalize import normalize_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.critique.text_repair import (
    REPLACEMENT,
    all_texts,
    clean_texts,
    count_examples,
    find_placeholder,
    needs_cleaning,
)

MAX_CHARACTERS = 1_000_000  # the longest real text, with reasoning and prompt, had 60,000


@dataclass(frozen=True)
class ParsedCritique:
    """A critique, its source format (json or cards), and the names of the repairs."""

    critique: Critique
    source_format: str
    repairs: tuple[str, ...] = ()


# Would be tokenized as a control token.
_CONTROL = re.compile(r"<\|\w{1,40}\|>|<image>|</?(?:think|tool_call|tool_response)>")
_MIN_LOOP = 120  # characters of a loop in one text of a critique
_SUMMARIES = ("key_strengths", "priority_improvements", "technical_notes")
_ENTITIES = ("&quot;", "&#34;", "&#x22;")


def parse_critique(
    text: str, advisor: str = "", prompts: Sequence[str] = ()
) -> ParsedCritique | Rejection:
    """Parse the critique in a stored text.

    advisor  the one to take from HTML of several advisors
    prompts  prompts of the job, to recognize an echo of them
    """
    if len(text) > MAX_CHARACTERS:
        return Rejection(RejectionReason.TOO_LONG, f"over {MAX_CHARACTERS:,} characters")
    body = text.strip("\ufeff \n\r\t\v\f")
    if not body.strip():
        return Rejection(RejectionReason.NO_TEXT, "empty text")
    result = _parse_body(body, advisor, prompts)
    if isinstance(result, ParsedCritique):
        return _find_problem(result, prompts) or result
    return explain_rejection(body, result, prompts)


def _parse_body(
    body: str, advisor: str, prompts: Sequence[str]
) -> ParsedCritique | Rejection | None:
    if critique := _read_canonical(body, prompts):
        return ParsedCritique(critique, "json")
    value = parse_html_cards(body, advisor)
    cards = (
        _normalize(ExtractedObject(value, ()), "cards", prompts)
        if isinstance(value, dict)
        else value
    )
    if isinstance(cards, ParsedCritique):
        return cards
    extracted = extract_object(remove_invisible(body) if is_html(body) else body)
    if not isinstance(extracted, ExtractedObject) and any(e in body for e in _ENTITIES):
        extracted = extract_object(html.unescape(body)) or extracted
    if isinstance(extracted, ExtractedObject):
        return _normalize(extracted, "json", prompts)
    return cards or extracted


def _read_canonical(body: str, prompts: Sequence[str]) -> Critique | None:
    """Return the critique of canonical text that needs no repair: most texts, ten times faster."""
    try:
        critique = validate_critique(body)
    except ValidationError:
        return None
    texts = list(_texts(critique))
    is_canonical = serialize_critique(critique) == body and not needs_cleaning(body)
    if not is_canonical or find_placeholder(texts) or count_examples(texts, prompts):
        return None
    return critique


def _normalize(
    extracted: ExtractedObject, source_format: str, prompts: Sequence[str]
) -> ParsedCritique | Rejection:
    """Return the critique of an object; loops and unreadable characters explain a rejection."""
    repairs = list(extracted.repairs)
    try:
        value = clean_texts(extracted.value, repairs)
    except RecursionError:
        return Rejection(RejectionReason.OTHER_SCHEMA, "lists nested too deeply")
    for key in _SUMMARIES:
        if count_examples(all_texts(value.get(key)), prompts):
            del value[key]
    normalized = normalize_critique(value)
    if isinstance(normalized, Rejection):
        texts = all_texts(value)
        return _find_unreadable(texts) or _find_loop(texts) or normalized
    critique, normalizations = normalized
    return ParsedCritique(
        critique, source_format, tuple(dict.fromkeys((*repairs, *normalizations)))
    )


def _find_problem(result: ParsedCritique, prompts: Sequence[str]) -> Rejection | None:
    """Return why a critique that is otherwise complete cannot be used."""
    critique = result.critique
    texts = list(_texts(critique))
    if any(critique.image_description in prompt for prompt in prompts):
        return Rejection(RejectionReason.PROMPT_ECHO, "it is the example of its own prompt")
    if problem := _find_unreadable(texts) or _find_placeholder(critique, prompts):
        return problem
    if "punctuation" in result.repairs and any(r.startswith("extra") for r in result.repairs):
        return Rejection(RejectionReason.MALFORMED_JSON, "its parts cannot be separated")
    joined = "\n".join(texts)
    if control := _CONTROL.search(joined):
        return Rejection(RejectionReason.OTHER_SCHEMA, f"contains the control token {control[0]}")
    if not is_latin(joined):
        return Rejection(RejectionReason.WRONG_LANGUAGE, critique.image_description[:40])
    return _find_loop(texts)


def _find_placeholder(critique: Critique, prompts: Sequence[str]) -> Rejection | None:
    comments = [t for d in critique.dimensions for t in (d.comment, d.recommendation)]
    if examples := count_examples(comments, prompts):
        detail = f"{examples} texts are those of the example in its prompt"
        is_echo = 2 * examples > len(comments)
        reason = RejectionReason.PROMPT_ECHO if is_echo else RejectionReason.DIMENSIONS_INCOMPLETE
        return Rejection(reason, detail)
    placeholder = find_placeholder([critique.image_description, *comments])
    if placeholder is None:
        wordless = (text for text in _texts(critique) if not any(map(str.isalpha, text)))
        placeholder = next(wordless, None)
    if placeholder is None:
        return None
    detail = f"a text that says nothing: {placeholder[:40]!r}"
    return Rejection(RejectionReason.DIMENSIONS_INCOMPLETE, detail)


def _find_unreadable(texts: Iterable[str]) -> Rejection | None:
    unreadable = next((text for text in texts if REPLACEMENT in text), None)
    if unreadable is None:
        return None
    start = max(0, unreadable.find(REPLACEMENT) - 20)
    detail = f"an unreadable character in {unreadable[start : start + 40]!r}"
    return Rejection(RejectionReason.NOT_UTF8, detail)


def _find_loop(texts: Iterable[str]) -> Rejection | None:
    return next(filter(None, (find_loop(text, _MIN_LOOP) for text in texts)), None)


def _texts(critique: Critique) -> Iterable[str]:
    yield critique.image_description
    for dimension in critique.dimensions:
        yield from (dimension.comment, dimension.recommendation)
    yield from (*critique.key_strengths, *critique.priority_improvements)
    yield critique.technical_notes
