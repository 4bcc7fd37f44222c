"""Extract a critique's JSON object from text, with the names of the repairs it needed.

A repair is made only if it is unambiguous. The last resort, the library json-repair, is trusted
only if it changed nothing but punctuation, and never on JSON that is cut off.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import json_repair

from mondrian.critique.rejection import Rejection, RejectionReason
from mondrian.critique.thoughts import MIN_ANSWER, THOUGHT_TAG, remove_thoughts

CRITIQUE_KEYS = ("dimensions", "dimensional_analysis", "image_description")
_MAX_OBJECTS = 1000  # objects that are tried before a text is malformed
_MAX_SCANNED = 3_000_000  # characters that all these attempts may read
_MAX_NESTED_TEXTS = 3  # a critique as text in an object as text in an object
_MAX_REPAIR_LENGTH, _MAX_REPAIR_QUOTES = 12_000, 400  # beyond them json-repair can be slow
_OBJECT_START = re.compile(r'\{(?=\s{0,99}["}])')
_KEY = r"(?:dimensions|dimensional_analysis|image_description|overall_score|overall_grade)"
_ANY_KEY = re.compile(  # also with the quotes of other notations, or with none
    rf"[\"'“”„‘’«»]{_KEY}[\"'“”‘’«»]\s{{0,9}}:|[{{,]\s{{0,9}}{_KEY}\s{{0,9}}:"
)
_OTHER_QUOTES = re.compile(
    r"[{,]\s{0,99}['“”„‘’«»]\w{2,30}['“”‘’«»]\s{0,9}:|\w[\"”’]\s{0,9}:\s{0,9}[“”„‘’']"
)
_MALFORMED_NUMBER = re.compile(
    r'("\w{4,20}"\s{0,9}:\s{0,9}\d{1,3})\.(?:\.(\d{1,3}))?(?=\s{0,9}[,}\]])'
)
_NUMBER = re.compile(r"[-+~.\d]*\d[.\d]*")
_FENCE = re.compile(r"```\w{0,10}")
_END_MARKS = "`\n\r\t …"  # that may follow a text that is cut off


@dataclass(frozen=True)
class ExtractedObject:
    value: dict[str, Any]
    repairs: tuple[str, ...]
    start: int = 0  # of the object in the text
    end: int = 0


@dataclass(frozen=True)
class _Failure:
    """The reason why no object was extracted, and the position at which decoding stopped."""

    reason: RejectionReason
    detail: str
    position: int = 0
    is_final: bool = False  # no repair is possible

    def to_rejection(self) -> Rejection:
        return Rejection(self.reason, self.detail[:120])


class DuplicateKeyError(ValueError):
    """An object has one key with two different values, so its meaning is ambiguous."""


def parse_unique(text: str) -> Any:
    """Parse JSON; raises ValueError, and DuplicateKeyError for a key with two different values.

    Deeply nested lists raise ValueError instead of RecursionError.
    """
    try:
        return json.loads(text, object_pairs_hook=_reject_duplicate_keys)
    except RecursionError:
        raise ValueError("lists nested too deeply") from None


def is_critique(value: Mapping[str, Any]) -> bool:
    """Return whether an object is the outer level of a critique, not one of its dimensions."""
    return any(key in value for key in CRITIQUE_KEYS)


def extract_object(text: str, depth: int = 0) -> ExtractedObject | Rejection | None:
    """Return the last JSON object that is a critique's outer level; None without JSON.

    Thoughts of a model contain no answer, except for an object at their very end if they never end.
    Rejections: truncated, malformed_json, other_schema; thinking_only if there are only thoughts.
    """
    answer = remove_thoughts(text)
    if answer == text:
        return _extract(text, depth)
    whole = _decode(text, depth)
    if isinstance(whole, ExtractedObject) and THOUGHT_TAG.search(text, whole.start, whole.end):
        return whole  # the tags are in its texts
    result = _extract(answer, depth)
    if isinstance(result, ExtractedObject):
        return replace(result, repairs=("thoughts", *result.repairs))
    if isinstance(whole, ExtractedObject) and _is_answer(text, whole):
        return replace(whole, repairs=("thoughts",))
    if isinstance(result, Rejection) or sum(map(str.isalpha, answer)) > MIN_ANSWER:
        return result
    return Rejection(RejectionReason.THINKING_ONLY, f"thoughts without an answer: {text[-40:]!r}")


def _is_answer(text: str, critique: ExtractedObject) -> bool:
    """Return whether an object inside thoughts ends the text, and no tag ends the thoughts."""
    after = _FENCE.sub("", text[critique.end :])
    if any(map(str.isalnum, THOUGHT_TAG.sub("", after))):
        return False
    before = _FENCE.sub("", text[: critique.start])
    return not THOUGHT_TAG.search(after) or not any(map(str.isalnum, THOUGHT_TAG.sub("", before)))


def _extract(body: str, depth: int) -> ExtractedObject | Rejection | None:
    result = _decode(body, depth)
    if isinstance(result, ExtractedObject):
        return result
    fixed = _MALFORMED_NUMBER.sub(lambda match: f"{match[1]}.{match[2] or 0}", body)
    retry = None if fixed == body else _decode(fixed, depth)
    if isinstance(retry, ExtractedObject):
        return replace(retry, repairs=(*retry.repairs, "number"))
    failure = retry or result
    is_other = failure and failure.reason == RejectionReason.OTHER_SCHEMA
    if failure and (failure.is_final or (is_other and not _has_critique_key(body))):
        return failure.to_rejection()
    failure = None if is_other else failure  # its objects are parts of a damaged critique
    # The braces may be those of LaTeX or prose.
    start = _FENCE.sub("", body[:99]).lstrip()
    if "{" not in body or not (_ANY_KEY.search(body) or re.match(r"\{\s{0,9}[\"'“]", start)):
        return None
    if _is_cut_off(fixed, failure):
        tail = body.rstrip(_END_MARKS)
        return Rejection(RejectionReason.TRUNCATED, f"cut off after {tail[-40:]!r}")
    if other := _OTHER_QUOTES.search(body):
        detail = f"not the quotes of JSON: {other[0].strip('{,')[:40]!r}"
        return Rejection(RejectionReason.MALFORMED_JSON, detail)
    repaired = _repair_json(fixed[fixed.find("{") : fixed.rfind("}") + 1])
    default = _Failure(RejectionReason.MALFORMED_JSON, f"not JSON: {body[:40]!r}")
    return repaired or (failure or default).to_rejection()


def _is_cut_off(body: str, failure: _Failure | None) -> bool:
    """Return whether braces stay open, and nothing says that one is missing in the middle."""
    tail = body.rstrip(_END_MARKS)
    if body.count("{") <= body.count("}"):
        return False
    return not tail.endswith(("}", "]")) or failure is None or failure.position > len(tail) - 9


def _decode(body: str, depth: int = 0) -> ExtractedObject | _Failure | None:
    """Return the last critique: a model repeats the prompt's example, or drafts, before it."""
    last_critique, failure, other, scanned, position = None, None, "", 0, 0
    for _ in range(_MAX_OBJECTS):
        opening = _OBJECT_START.search(body, position)
        if opening is None or scanned > _MAX_SCANNED:
            break
        decoded = _decode_object(body, opening.start())
        if isinstance(decoded, _Failure):
            scanned += decoded.position - opening.start()
            position = decoded.position if decoded.is_final else opening.end()
            is_critique_text = _has_critique_key(body, opening.start(), decoded.position)
            if decoded.is_final and is_critique_text:
                last_critique, failure = None, decoded
            failure = failure or decoded
            continue
        scanned += decoded.end - decoded.start
        if _is_in_python_text(body, decoded):
            malformed = RejectionReason.MALFORMED_JSON
            return _Failure(malformed, "JSON in a text of Python", is_final=True)
        critique = _find_critique(decoded, depth)
        if critique is None:
            other = other or f"keys {', '.join(list(decoded.value)[:6])}"
            is_outer = _has_critique_key(body, opening.start(), decoded.end)
            position = opening.end() if is_outer else decoded.end
            continue
        last_critique, failure, position = critique, None, decoded.end
        if not _has_critique_key(body, decoded.end):
            return _add_surrounding_repairs(last_critique, body)
    if last_critique:  # followed by another one that cannot be read
        if failure is None and _OBJECT_START.search(body, position) is None:
            return _add_surrounding_repairs(last_critique, body)
        detail = f"more than {_MAX_OBJECTS} objects"
        return failure or _Failure(RejectionReason.MALFORMED_JSON, detail)
    return failure or (_Failure(RejectionReason.OTHER_SCHEMA, other) if other else None)


def _is_in_python_text(body: str, decoded: ExtractedObject) -> bool:
    """Return whether an object is in single quotes, so that its escapes mean something else."""
    if not body[decoded.start - 1 : decoded.start] == "'" == body[decoded.end : decoded.end + 1]:
        return False
    return bool(_OTHER_QUOTES.search(body[max(0, decoded.start - 200) : decoded.start]))


def _find_critique(decoded: ExtractedObject, depth: int) -> ExtractedObject | None:
    """Return an object that is a critique, or the critique that is a text in it."""
    if is_critique(decoded.value):
        return decoded
    if depth >= _MAX_NESTED_TEXTS:
        return None
    for text in decoded.value.values():
        if isinstance(text, str) and _has_critique_key(text):
            nested = extract_object(text, depth + 1)
            if isinstance(nested, ExtractedObject):
                repairs = ("nested_text", *nested.repairs, *decoded.repairs)
                return replace(decoded, value=nested.value, repairs=repairs)
    return None


def _decode_object(body: str, start: int) -> ExtractedObject | _Failure:
    """Return the object that begins at a brace, or the error and its position."""
    malformed = RejectionReason.MALFORMED_JSON
    for strict in (True, False):
        decoder = json.JSONDecoder(strict=strict, object_pairs_hook=_reject_duplicate_keys)
        try:
            value, end = decoder.raw_decode(body, start)
        except json.JSONDecodeError as error:
            message = str(error)
            is_open = message.startswith("Unterminated")
            failure = _Failure(malformed, message, len(body) if is_open else error.pos)
            if not message.startswith("Invalid control character"):
                break
        except DuplicateKeyError as error:
            end = _find_end(body, start)
            return _Failure(malformed, str(error), end or len(body), is_final=end > 0)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits
            return _Failure(malformed, str(error), len(body))
        else:
            return ExtractedObject(value, () if strict else ("control_character",), start, end)
    return failure


def _find_end(body: str, start: int) -> int:
    """Return the end of an object with any keys; 0 if it has none."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(body, start)[1]
    except (ValueError, RecursionError):
        return 0


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        stored = unique.setdefault(key, value)
        if stored != value or isinstance(stored, bool) != isinstance(value, bool):
            raise DuplicateKeyError(f"{key[:40]!r} has two different values")
    return unique


def _has_critique_key(body: str, start: int = 0, end: int | None = None) -> bool:
    return any(body.find(f'"{key}', start, end) >= 0 for key in CRITIQUE_KEYS)


def _add_surrounding_repairs(extracted: ExtractedObject, body: str) -> ExtractedObject:
    before, after = body[: extracted.start], body[extracted.end :]
    fenced = "```" in before or "```" in after
    before, after = (_FENCE.sub("", part).strip() for part in (before, after))
    present = {
        "fence": fenced,
        "text_before": bool(before),
        "extra_brace": after.startswith("}"),
        "text_after": bool(after.strip("} \n\r\t")),
    }
    names = (name for name, is_present in present.items() if is_present)
    return replace(extracted, repairs=(*names, *extracted.repairs))


def _repair_json(text: str) -> ExtractedObject | None:
    """Use json-repair on text that is complete, with as many closing as opening brackets."""
    quotes = len(re.findall(r'(?<!\\)(?:\\\\)*"', text))
    complete = text.count("{") == text.count("}") and text.count("[") == text.count("]")
    too_slow = len(text) > _MAX_REPAIR_LENGTH or quotes > _MAX_REPAIR_QUOTES
    if too_slow or not complete or quotes % 2:
        return None
    try:
        value = json_repair.loads(text)
        same = _content(text) == _content(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError, IndexError):
        return None
    if not same or not isinstance(value, dict) or not is_critique(value):
        return None
    return ExtractedObject(value, ("punctuation",))


def _content(text: str) -> tuple[str, list[str]]:
    """Return all letters and digits, and each number with its sign and point."""
    return "".join(c for c in text if c.isalnum()), _NUMBER.findall(text)
