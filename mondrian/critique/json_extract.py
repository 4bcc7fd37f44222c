"""Text that holds a critique as JSON -> the object, and what had to be repaired to read it.

A repair is made only where it is certain. The last resort, the library json-repair, is taken at its
word only where it changed nothing but punctuation, and never on JSON that is cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import json_repair

from mondrian.critique.rejection import Rejection, RejectionReason

CRITIQUE_KEYS = (
    "dimensions",
    "dimensional_analysis",
    "image_description",
)  # one of them marks a critique
_TRIES = 20  # opening braces that are tried before a text counts as malformed
_SCANNED = 3_000_000  # characters that are read in all these tries
_LAST_RESORT, _QUOTES = 12_000, 400  # length up to which json-repair, which can be slow, is asked
_THOUGHT_END = re.compile(r"</(?:think|thought|thinking)>")
_MALFORMED_NUMBER = re.compile(
    r'("\w{4,20}"\s{0,9}:\s{0,9}\d{1,3})\.(?:\.(\d{1,3}))?(?=\s{0,9}[,}\]])'
)
_THOUGHT_START = re.compile(r"<(?:think|thought|thinking)>")
_NUMBER = re.compile(r"[-+~.\d]*\d[.\d]*")
_FENCE = re.compile(r"```\w{0,10}")


@dataclass(frozen=True)
class ExtractedObject:
    """The object as it was stored, and the names of the repairs."""

    value: dict[str, Any]
    repairs: tuple[str, ...]


def is_critique(value: Mapping[str, Any]) -> bool:
    """Whether an object is the outer level of a critique, not one of its dimensions."""
    return any(key in value for key in CRITIQUE_KEYS)


def find_object(text: str) -> ExtractedObject | Rejection | None:
    """The last JSON object that is a critique's outer level; None where nothing speaks of one.

    Rejected where JSON is there, with why it is no critique: truncated, malformed_json,
    other_schema, or thinking_only where it stands in thoughts that never end.
    """
    body = _THOUGHT_END.split(text)[-1]
    if _THOUGHT_START.search(body):
        return Rejection(RejectionReason.THINKING_ONLY, f"thoughts without an end: {body[-40:]!r}")
    thoughts = () if body == text else ("thoughts",)
    result = _decode(body)
    if isinstance(result, ExtractedObject):
        return ExtractedObject(result.value, (*thoughts, *result.repairs))
    mended = _MALFORMED_NUMBER.sub(lambda m: f"{m[1]}.{m[2] or 0}", body)
    again = None if mended == body else _decode(mended)
    if isinstance(again, ExtractedObject):
        return ExtractedObject(again.value, (*thoughts, *again.repairs, "number"))
    if result is None or not _is_json(body):
        return result if result and result.reason == RejectionReason.OTHER_SCHEMA else None
    if result.reason != RejectionReason.MALFORMED_JSON:
        return result
    if body.count("{") > body.count("}"):
        tail = body.rstrip("`\n\r\t ")
        return Rejection(RejectionReason.TRUNCATED, f"cut off after {tail[-40:]!r}")
    return _repair_json(mended[mended.find("{") : mended.rfind("}") + 1]) or result


def _decode(body: str) -> ExtractedObject | Rejection | None:
    """Try the first opening braces one after the other; where several objects do, the last counts.

    A model repeats the example that it was given, or drafts, before it says what it means.
    """
    candidate, fault, other, scanned = None, "", "", 0
    start = body.find("{")
    for _ in range(_TRIES):
        if start < 0 or scanned > _SCANNED:
            break
        value, end, notes = _decode_object(body, start)
        scanned += end - start
        after = start + 1
        if value is None:
            fault = fault or notes[0]
        elif is_critique(value):
            candidate = ExtractedObject(
                value, (*_surrounding_repairs(body[:start], body[end:]), *notes)
            )
            fault, after = "", end
            if not _has_critique_key(body, end):
                return candidate
        else:
            other = other or f"keys {', '.join(list(value)[:6])}"
        start = body.find("{", after)
    if candidate:  # and another after it that cannot be read
        fault = fault or f"more than {_TRIES} objects"
    if other and not fault:
        return Rejection(RejectionReason.OTHER_SCHEMA, other[:120])
    return Rejection(RejectionReason.MALFORMED_JSON, fault) if fault else None


def _decode_object(body: str, start: int) -> tuple[dict[str, Any] | None, int, tuple[str, ...]]:
    """The object that begins at a brace, where it ends, and repairs; or None, and the fault."""
    for strict in (True, False):
        decoder = json.JSONDecoder(strict=strict, object_pairs_hook=_reject_duplicate_keys)
        try:
            value, end = decoder.raw_decode(body, start)
        except json.JSONDecodeError as error:
            end, fault = error.pos, str(error)[:120]
            if not fault.startswith("Invalid control character"):
                break
        except (ValueError, RecursionError) as error:  # a key twice, a number of 5,000 digits
            end, fault = len(body), str(error)[:120]
            break
        else:
            return value, end, () if strict else ("control_character",)
    return None, end, (fault,)


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it says two things under one key."""
    out: dict[str, Any] = {}
    for key, value in pairs:
        if out.setdefault(key, value) != value:
            raise ValueError(f"{key[:40]!r} stands twice, with different values")
    return out


def _has_critique_key(body: str, start: int = 0) -> bool:
    return any(body.find(f'"{key}"', start) >= 0 for key in CRITIQUE_KEYS)


def _is_json(body: str) -> bool:
    """Whether the braces are those of an object, not of LaTeX or of prose."""
    return _has_critique_key(body) or _FENCE.sub("", body).lstrip().startswith('{"')


def _surrounding_repairs(before: str, after: str) -> tuple[str, ...]:
    """What stands around the object."""
    fenced = "```" in before or "```" in after
    before, after = (_FENCE.sub("", part).strip() for part in (before, after))
    names = {
        "fence": fenced,
        "text_before": bool(before),
        "extra_brace": after.startswith("}"),
        "text_after": bool(after.strip("} \n\r\t")),
    }
    return tuple(name for name, there in names.items() if there)


def _repair_json(span: str) -> ExtractedObject | None:
    """Ask json-repair, of what is whole: as many ends as beginnings."""
    quotes = len(re.findall(r'(?<!\\)(?:\\\\)*"', span))
    whole = span.count("{") == span.count("}") and span.count("[") == span.count("]")
    if len(span) > _LAST_RESORT or quotes > _QUOTES or not whole or quotes % 2:
        return None
    try:
        value = json_repair.loads(span)
        same = _content(span) == _content(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError, IndexError):
        return None
    if not same or not isinstance(value, dict) or not is_critique(value):
        return None
    return ExtractedObject(value, ("punctuation",))


def _content(text: str) -> tuple[str, list[str]]:
    """All letters and digits, and each number with its sign and point."""
    return "".join(c for c in text if c.isalnum()), _NUMBER.findall(text)
