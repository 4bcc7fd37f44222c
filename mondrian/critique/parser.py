"""Parse any stored text into a Critique, or reject it with a reason code.

Critiques are JSON (plain, in a fence, after headings, prose or reasoning, with older or misspelt
keys) or the application's HTML cards; every other kind of text has its reason code.
"""

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from mondrian.critique.diagnosis import explain_rejection, find_loop, is_error_text, is_latin
from mondrian.critique.html_cards import has_open_element, parse_html_cards
from mondrian.critique.html_text import is_html, remove_invisible
from mondrian.critique.json_extract import ExtractedObject, extract_object
from mondrian.critique.normalize import find_extra_scores, normalize_critique
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.schema import DIMENSIONS, Critique, Dimension, validate_critique
from mondrian.critique.text_repair import (
    UNREADABLE,
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
    extra_scores: tuple[float, ...] = ()  # of dimensions other than the seven
    scored: bool = True  # False: a score is missing, and all are FILLER_SCORE


# Would be tokenized as a control token.
_CONTROL = re.compile(r"<\|\w{1,40}\|>|<image>|</?(?:think|tool_call|tool_response)>")
_COLON = re.compile(r'"\s{0,99}:')
_EXPECTED_KEY_COUNT = len(Critique.model_fields) + len(DIMENSIONS) * len(Dimension.model_fields)
_MIN_LOOP = 120  # characters of a loop in one text of a critique
_SUMMARIES = ("key_strengths", "priority_improvements", "technical_notes")
_NOTHING = ("null", "none", "[]", '""')  # an absent text that was stored as text
_ENTITIES = ("&quot;", "&#34;", "&#x22;")


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
    body = text.strip("\ufeff \n\r\t\v\f")
    if not body.strip() or body.lower() in _NOTHING:
        return Rejection(RejectionReason.NO_TEXT, "empty text")
    body, is_nested = _unquote(body)
    result = _parse_body(body, advisor, prompts)
    if isinstance(result, ParsedCritique):
        if is_nested:
            result = replace(result, repairs=("nested_text", *result.repairs))
        problem = _find_problem(result, prompts)
        if problem is None and not (result.scored or accept_unscored):
            return Rejection(RejectionReason.UNSCORED, "complete but for a score")
        return problem or result
    return explain_rejection(body, result, prompts)


def _unquote(body: str) -> tuple[str, bool]:
    """Return the text that is stored as a JSON text, and whether it is one."""
    if not (len(body) > 2 and body[0] == body[-1] == '"'):
        return body, False
    try:
        value = json.loads(body)
    except ValueError:
        return body, False
    return (value.strip(), True) if isinstance(value, str) and value.strip() else (body, False)


def _parse_body(
    body: str, advisor: str, prompts: Sequence[str]
) -> ParsedCritique | Rejection | None:
    if critique := _read_canonical(body, prompts):
        return ParsedCritique(critique, "json")
    cards = _read_cards(body, advisor, prompts)
    if isinstance(cards, ParsedCritique):
        return cards
    extracted = extract_object(remove_invisible(body) if is_html(body) else body)
    if not isinstance(extracted, ExtractedObject) and any(e in body for e in _ENTITIES):
        extracted = extract_object(html.unescape(body)) or extracted
    if isinstance(extracted, ExtractedObject):
        return _normalize(extracted, "json", prompts)
    return cards or extracted


def _read_cards(
    body: str, advisor: str, prompts: Sequence[str]
) -> ParsedCritique | Rejection | None:
    """Return the critique of HTML cards; None for HTML with similar headings but no score."""
    value = parse_html_cards(body, advisor)
    if not isinstance(value, dict):
        return value
    cards = _normalize(ExtractedObject(value, ()), "cards", prompts)
    is_incomplete = getattr(cards, "reason", "") == RejectionReason.DIMENSIONS_INCOMPLETE
    if isinstance(cards, ParsedCritique) or not is_incomplete:
        return cards
    if not any("score" in dimension for dimension in value["dimensions"]):
        detail = f"HTML cards without scores; {cards.detail}"
        unscored = Rejection(RejectionReason.UNSCORED, detail)
        return unscored if "feedback-card" in body else None
    if "overall" not in body.lower() and has_open_element(body):
        return Rejection(RejectionReason.TRUNCATED, f"HTML cut off after {body[-40:]!r}")
    return cards


def _read_canonical(body: str, prompts: Sequence[str]) -> Critique | None:
    """Return the critique of schema-valid text that needs no repair: most texts, much faster."""
    try:
        critique = validate_critique(body)
    except ValidationError:
        return None
    texts = list(_texts(critique))
    has_duplicate_keys = len(_COLON.findall(body)) != _EXPECTED_KEY_COUNT
    if has_duplicate_keys or needs_cleaning(body):
        return None
    if find_placeholder(texts) or count_examples(texts, prompts):
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
        if "punctuation" in repairs:
            normalized = Rejection(RejectionReason.MALFORMED_JSON, normalized.detail)
        return _find_unreadable(texts) or _find_loop(texts) or normalized
    repairs += normalized.repairs
    return ParsedCritique(
        normalized.critique,
        source_format,
        tuple(dict.fromkeys(repairs)),
        find_extra_scores(value) if normalized.scored else (),
        normalized.scored,
    )


def _find_problem(result: ParsedCritique, prompts: Sequence[str]) -> Rejection | None:
    """Return why a critique that is otherwise complete cannot be used."""
    critique = result.critique
    texts = list(_texts(critique))
    if error := next(filter(is_error_text, texts), None):
        return Rejection(RejectionReason.ERROR_PLACEHOLDER, error[:80])
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
    unreadable = next(filter(None, map(UNREADABLE.search, texts)), None)
    if unreadable is None:
        return None
    start = max(0, unreadable.start() - 20)
    detail = f"an unreadable character in {unreadable.string[start : start + 40]!r}"
    return Rejection(RejectionReason.NOT_UTF8, detail)


def _find_loop(texts: Iterable[str]) -> Rejection | None:
    return next(filter(None, (find_loop(text, _MIN_LOOP) for text in texts)), None)


def _texts(critique: Critique) -> Iterable[str]:
    yield critique.image_description
    for dimension in critique.dimensions:
        yield from (dimension.comment, dimension.recommendation)
    yield from (*critique.key_strengths, *critique.priority_improvements)
    yield critique.technical_notes
