"""Find why a text contains no critique: an error, a loop, reasoning, the prompt, no scores."""

import json
import re
import zlib
from collections.abc import Sequence
from itertools import islice

from mondrian.critique.html_text import visible_text
from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.text_repair import UNREADABLE
from mondrian.critique.thoughts import MIN_ANSWER, is_thinking, remove_thoughts

_ERROR_WORD = re.compile(
    r"\b(?:error\s{0,9}(?:[:\]!*]|[-–—]\s|<|\n|$|\d|occurred)"
    r"|error (?:[a-z]{2,12}ing|in|from|at)\b|exception\s{0,9}[:\]]|errno\b"
    r"|[A-Z]\w{2,30}(?:Error|Exception)\b|traceback \(most recent call last\)"
    r"|failed to (?:parse|connect|load|generate|analy[sz]e|process|fetch|decode|(?:open|read) file)"
    r"\b|(?:analysis|request|generation|processing|critique) (?:has )?"
    r"(?:failed|timed out|was aborted)\b|(?:could not|cannot|can't|unable to) "
    r"(?:connect to|parse|load|generate|analy[sz]e|process|reach)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_ERROR_CONTEXT = re.compile(  # before the word: the start of a line or a sentence
    r"(?:^|[.!?>:\n])[^\w\n]{0,20}(?:(?:an?|the|critical|unexpected|internal|unknown|fatal"
    r"|connection|ollama|api|http|https|server|network|runtime|timeout|model|json|parse|parsing"
    r"|validation|memory|analysis|processing|llm|ai|backend|service|system|database) ){0,3}$",
    re.IGNORECASE,
)
_MAX_CONTEXT, _MAX_ERROR_WORDS = 80, 5000
_ERROR_ANYWHERE = re.compile(
    r"cannot connect to ai service|\bAPI returned [45]\d\d\b|advisor not found in database"
    r"|failed to parse model response|connection refused|max retries exceeded|cuda out of memory"
    r"|internal server error|service (?:temporarily )?unavailable|rate limit exceeded"
    r"|read timed out|request timed out|connection (?:timed out|reset|aborted)|gateway time-?out"
    r"|model '[^'\n]{1,80}' not found",
    re.IGNORECASE,
)
_ERROR_TEXT = re.compile(  # as a whole text of a critique: "Error: none" may be in one
    r"\W{0,9}(?:error|exception)\s{0,9}[:!]"
    r"|\W{0,9}(?:analysis|request|generation|critique) (?:has )?(?:failed|timed out|was aborted)"
    r"(?:\s{0,9}[.:!]|\s{0,9}$| for )",
    re.IGNORECASE,
)
_ERROR_KEY = re.compile(
    r'"(?:error|errors|error_message|exception|traceback)"\s{0,9}:\s{0,9}'
    r'(?!null|false|""|\[\s{0,9}\]|\{\s{0,9}\}|0)'
    r'|"(?:status|type|result)"\s{0,9}:\s{0,9}"(?:error|failed|failure)"'
    r'|"(?:success|ok)"\s{0,9}:\s{0,9}false',
    re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"(?<!cannot )(?<!can't )(?<!unable to )(?<!not )(?<!failed to )(?<!couldn't )"
    r"(?:analy[sz]e|evaluate|critique) (?:the|this) (?:photo|image|picture)|your task is"
    r"|(?:reply|respond|answer) (?:only )?(?:with|in) (?:one |valid |a )?json|output format"
)
_ECHO_PREFIX = 100  # characters of a prompt that recognize it
_WINDOW, _MIN_LOOP = 4000, 300  # characters that are compressed; the shortest loop
_LOOP_RATIO = 10  # zlib shrinks English of 4,000 characters 2 to 3 times
_SHORT_WINDOW, _SHORT_RATIO = 600, 6
_MIN_REPEATS = 3
_MAX_MARKS = 16  # characters that the last unit may lack, such as its line break
_MIN_WORDS = 10  # letters after JSON that show that a text goes on
_MAX_SENTENCES = 2000
_RULE = re.compile(r"(?<=[ \t=_─—~+:-])[ \t=_─—~+:-]+")
_SENTENCE = re.compile(r"[.!?。！？\n]+\s*")
_END_MARKS = "`\"'}]…. \n\r\t,;*_"

_UNCLEAR = (
    RejectionReason.MALFORMED_JSON,
    RejectionReason.OTHER_SCHEMA,
    RejectionReason.TRUNCATED,
    RejectionReason.THINKING_ONLY,
)


def explain_rejection(body: str, rejection: Rejection | None, prompts: Sequence[str]) -> Rejection:
    """Return the most telling reason for a text; `rejection` is that of its JSON or HTML, if any.

    A stored error comes first, then a loop, reasoning, the prompt, language and encoding.
    """
    text = visible_text(body)
    answer = remove_thoughts(text)
    if sum(map(str.isalpha, answer)) > MIN_ANSWER:
        text = answer
    if rejection and rejection.reason not in _UNCLEAR:
        return find_error(_outside_json(text)) or rejection
    if problem := find_error(text if rejection is None else _outside_json(text)) or find_loop(text):
        return problem
    if _ERROR_KEY.search(body) and '"dimensions"' not in body:
        return Rejection(RejectionReason.ERROR_PLACEHOLDER, text[:80])
    if rejection is None or rejection.reason == RejectionReason.OTHER_SCHEMA:
        rejection = _explain_prose(text, rejection, prompts)
    elif rejection.reason == RejectionReason.MALFORMED_JSON or _goes_on_after_json(text):
        rejection = _explain_drafts(text, rejection, prompts)
    unreadable = UNREADABLE.search(body)
    if unreadable and rejection.reason in (*_UNCLEAR[:2], RejectionReason.UNSCORED):
        return Rejection(RejectionReason.NOT_UTF8, f"unreadable at character {unreadable.start()}")
    return rejection


def find_error(text: str) -> Rejection | None:
    """Return a stored error message as a rejection."""
    words = islice(_ERROR_WORD.finditer(text), _MAX_ERROR_WORDS)
    starts = (word.start() for word in words if _begins_sentence(text, word.start()))
    anywhere = _ERROR_ANYWHERE.search(text)
    start = anywhere.start() if anywhere else next(starts, None)
    if start is None:
        return None
    detail = " ".join(text[start : start + 2 * _MAX_CONTEXT].split())
    return Rejection(RejectionReason.ERROR_PLACEHOLDER, detail[:_MAX_CONTEXT])


def is_error_text(text: str) -> bool:
    """Return whether a text of a critique is an error message in its place."""
    return bool(_ERROR_TEXT.match(text) or _ERROR_ANYWHERE.search(text))


def _begins_sentence(text: str, position: int) -> bool:
    """Return whether only marks and words such as "Connection" stand before it in its sentence."""
    before = text[max(0, position - _MAX_CONTEXT) : position]
    return bool(_ERROR_CONTEXT.search(before if position > _MAX_CONTEXT else "\n" + before))


def find_loop(text: str, min_loop: int = _MIN_LOOP) -> Rejection | None:
    """Return a rejection if a text ends in a loop, or if most of it is one."""
    body = _RULE.sub("-", text)  # lines of a table, indentation
    if len(body) >= min_loop:
        tail = body[-5 * _WINDOW :]
        if _ends_in_period(tail, min_loop) or _is_compressible(body[-_WINDOW:]):
            return Rejection(RejectionReason.LOOPING, f"ends in {text[-40:]!r}")
        if _repeats_sentences(body) or _has_loop_inside(body):
            return Rejection(RejectionReason.LOOPING, f"repeats itself: {text[:40]!r}")
    return None


def is_latin(text: str) -> bool:
    if text.isascii():
        return True
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(ord(c) < 0x250 for c in letters) >= len(letters)


def is_prompt_echo(text: str, prompts: Sequence[str]) -> bool:
    starts = (prompt.strip()[:_ECHO_PREFIX] for prompt in prompts)
    return any(s and s in text for s in starts) or bool(_INSTRUCTION.search(text[:4000].lower()))


def _explain_prose(text: str, rejection: Rejection | None, prompts: Sequence[str]) -> Rejection:
    goes_on = rejection is None or _goes_on_after_json(text)
    if goes_on and is_thinking(text) and is_latin(text):
        reason = RejectionReason.THINKING_ONLY
    elif is_prompt_echo(text, prompts):
        reason = RejectionReason.PROMPT_ECHO
    elif rejection and is_latin(text):
        return rejection
    else:
        reason = RejectionReason.UNSCORED if is_latin(text) else RejectionReason.WRONG_LANGUAGE
    return Rejection(reason, rejection.detail if rejection else f"{text[:60]!r}")


def _explain_drafts(text: str, rejection: Rejection, prompts: Sequence[str]) -> Rejection:
    """Return the reason for JSON with an error, which may be part of reasoning or of the prompt."""
    before, _, _ = text.partition("{")
    if is_thinking(before) and _goes_on_after_json(text):
        return Rejection(RejectionReason.THINKING_ONLY, f"{text[:60]!r}")
    if is_prompt_echo(before, prompts) and rejection.reason == RejectionReason.MALFORMED_JSON:
        return Rejection(RejectionReason.PROMPT_ECHO, f"{text[:60]!r}")
    return rejection


def _goes_on_after_json(text: str) -> bool:
    """Return whether words of prose follow the last bracket or closing quote."""
    end = max(text.rfind(mark) for mark in '"}]')
    is_opening = text[end : end + 1] == '"' and text[:end].rstrip()[-1:] in (":", ",", "[")
    if is_opening and "\n" not in text[end:]:
        return False  # a text that is cut off
    return sum(map(str.isalpha, text[end + 1 :])) > _MIN_WORDS


def _outside_json(text: str) -> str:
    """Return the text before the first and after the last brace of JSON."""
    start = re.search(r"\{\s{0,99}[\"'“]", text)
    if start is None:
        return text
    end = max(text.rfind("}"), text.rfind("]"), start.end())
    return text[: start.start()] + "\n" + text[end + 1 :]


def _ends_in_period(text: str, min_loop: int) -> bool:
    """Return whether a text ends in one unit at least three times, however long the unit is."""
    body = text.rstrip(_END_MARKS)
    suffix, position = body[-24:], len(body) - 1
    for _ in range(50):
        position = body.rfind(suffix, 0, position + len(suffix) - 1)
        if position < 0:
            return False
        period = len(body) - len(suffix) - position
        length = _repeated_length(body, period)
        if length >= min_loop and length + _MAX_MARKS >= _MIN_REPEATS * period:
            return True
    return False


def _repeated_length(text: str, period: int) -> int:
    """Return how long the part at the end is that repeats itself with a period."""
    low, high = period, len(text)
    while low < high:  # the longest suffix, by bisection: a shorter one is periodic as well
        middle = (low + high + 1) // 2
        part = text[-middle:]
        low, high = (middle, high) if part[period:] == part[:-period] else (low, middle - 1)
    return low


def _is_compressible(tail: str) -> bool:
    words = tail.split()
    if len(words) > 20 and 3 * len(set(words)) > len(words):
        return False  # too many different words
    content = tail.encode("utf-8", "replace")
    is_long = len(content) >= _MIN_LOOP
    return is_long and len(content) > _LOOP_RATIO * len(zlib.compress(content, 1))


def _repeats_sentences(text: str) -> bool:
    """Return whether two thirds of the sentences are repetitions of others."""
    sentences = [s.strip().lower() for s in _SENTENCE.split(text[-40 * _WINDOW :])]
    long = [s for s in sentences if len(s) > 9][-_MAX_SENTENCES:]
    return len(long) >= 9 and 3 * len(set(long)) <= len(long)


def _has_loop_inside(text: str) -> bool:
    """Return whether most windows of a text are loops with a short period."""
    windows = range(0, len(text) - _SHORT_WINDOW // 2, _SHORT_WINDOW)
    loops = 0
    for start in windows:
        content = text[start : start + _SHORT_WINDOW].encode("utf-8", "replace")
        loops += len(content) > _SHORT_RATIO * len(zlib.compress(content, 1))
    return 2 * loops > len(windows) > 0


def format_error_value(value: object) -> str:
    """Return the value of an `error` key as one short line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split())[:80]
