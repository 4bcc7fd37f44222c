"""Extract a critique's JSON object from text, with the names of the repairs it needed.

A repair is made only if it is unambiguous. The last resort, the library json-repair, is trusted
only if it changed nothing but punctuation, and never on JSON that is cut off.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import json_repair

from mondrian.critique.rejection import Rejection, RejectionReason

CRITIQUE_KEYS = ("dimensions", "dimensional_analysis", "image_description")
_MAX_BRACES = 20  # opening braces that are tried before a text is malformed
_MAX_SCANNED = 3_000_000  # characters that all these attempts may read
_MAX_REPAIR_LENGTH, _MAX_REPAIR_QUOTES = 12_000, 400  # beyond them json-repair can be slow
_THOUGHT_START = re.compile(r"<(?:think|thought|thinking)>")
_THOUGHT_END = re.compile(r"</(?:think|thought|thinking)>")
_MALFORMED_NUMBER = re.compile(
    r'("\w{4,20}"\s{0,9}:\s{0,9}\d{1,3})\.(?:\.(\d{1,3}))?(?=\s{0,9}[,}\]])'
)
_NUMBER = re.compile(r"[-+~.\d]*\d[.\d]*")
_FENCE = re.compile(r"```\w{0,10}")


@dataclass(frozen=True)
class ExtractedObject:
    value: dict[str, Any]
    repairs: tuple[str, ...]


def is_critique(value: Mapping[str, Any]) -> bool:
    """Return whether an object is the outer level of a critique, not one of its dimensions."""
    return any(key in value for key in CRITIQUE_KEYS)


def extract_object(text: str) -> ExtractedObject | Rejection | None:
    """Return the last JSON object that is a critique's outer level; None without JSON.

    Rejections: truncated, malformed_json, other_schema; thinking_only in thoughts without an end.
    """
    body = _THOUGHT_END.split(text)[-1]
    if _THOUGHT_START.search(body):
        return Rejection(RejectionReason.THINKING_ONLY, f"thoughts without an end: {body[-40:]!r}")
    thoughts = () if body == text else ("thoughts",)
    result = _decode(body)
    if isinstance(result, ExtractedObject):
        return ExtractedObject(result.value, (*thoughts, *result.repairs))
    fixed = _MALFORMED_NUMBER.sub(lambda match: f"{match[1]}.{match[2] or 0}", body)
    retry = None if fixed == body else _decode(fixed)
    if isinstance(retry, ExtractedObject):
        return ExtractedObject(retry.value, (*thoughts, *retry.repairs, "number"))
    # The braces may be those of LaTeX or prose.
    is_json = _has_critique_key(body) or _FENCE.sub("", body).lstrip().startswith('{"')
    if result is None or not is_json:
        return result if result and result.reason == RejectionReason.OTHER_SCHEMA else None
    if result.reason != RejectionReason.MALFORMED_JSON:
        return result
    if body.count("{") > body.count("}"):
        tail = body.rstrip("`\n\r\t ")
        return Rejection(RejectionReason.TRUNCATED, f"cut off after {tail[-40:]!r}")
    return _repair_json(fixed[fixed.find("{") : fixed.rfind("}") + 1]) or result


def _decode(body: str) -> ExtractedObject | Rejection | None:
    """Return the last critique: a model repeats the prompt's example, or drafts, before it."""
    candidate, error, other, scanned = None, "", "", 0
    start = body.find("{")
    for _ in range(_MAX_BRACES):
        if start < 0 or scanned > _MAX_SCANNED:
            break
        value, end, notes = _decode_object(body, start)
        scanned += end - start
        next_start = start + 1
        if value is None:
            error = error or notes[0]
        elif is_critique(value):
            repairs = (*_surrounding_repairs(body[:start], body[end:]), *notes)
            candidate = ExtractedObject(value, repairs)
            error, next_start = "", end
            if not _has_critique_key(body, end):
                return candidate
        else:
            other = other or f"keys {', '.join(list(value)[:6])}"
        start = body.find("{", next_start)
    if candidate:  # followed by another one that cannot be read
        error = error or f"more than {_MAX_BRACES} objects"
    if other and not error:
        return Rejection(RejectionReason.OTHER_SCHEMA, other[:120])
    return Rejection(RejectionReason.MALFORMED_JSON, error) if error else None


def _decode_object(body: str, start: int) -> tuple[dict[str, Any] | None, int, tuple[str, ...]]:
    """Return the object that begins at a brace, its end, and repairs; or None and the error."""
    for strict in (True, False):
        decoder = json.JSONDecoder(strict=strict, object_pairs_hook=_reject_duplicate_keys)
        try:
            value, end = decoder.raw_decode(body, start)
        except json.JSONDecodeError as error:
            end, message = error.pos, str(error)[:120]
            if not message.startswith("Invalid control character"):
                break
        except (ValueError, RecursionError) as error:  # a duplicate key, a number of 5,000 digits
            end, message = len(body), str(error)[:120]
            break
        else:
            return value, end, () if strict else ("control_character",)
    return None, end, (message,)


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if unique.setdefault(key, value) != value:
            raise ValueError(f"{key[:40]!r} has two different values")
    return unique


def _has_critique_key(body: str, start: int = 0) -> bool:
    return any(body.find(f'"{key}"', start) >= 0 for key in CRITIQUE_KEYS)


def _surrounding_repairs(before: str, after: str) -> list[str]:
    fenced = "```" in before or "```" in after
    before, after = (_FENCE.sub("", part).strip() for part in (before, after))
    present = {
        "fence": fenced,
        "text_before": bool(before),
        "extra_brace": after.startswith("}"),
        "text_after": bool(after.strip("} \n\r\t")),
    }
    return [name for name, is_present in present.items() if is_present]


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
