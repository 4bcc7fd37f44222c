"""Text that holds a critique as JSON -> the object, and what had to be repaired to read it.

A repair is made only where it is certain. The last resort, the library json-repair, is taken at its
word only where it changed nothing but punctuation, and never on JSON that is cut off.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import json_repair

from mondrian.reason import Reason, Rejected

KEYS = ("dimensions", "dimensional_analysis", "image_description")  # one of them marks a critique
_TRIES = 20  # opening braces that are tried before a text counts as malformed
_LAST_RESORT = 30_000  # characters up to which json-repair, which is slow, is asked
_THOUGHT = re.compile(r"</(?:think|thought|thinking)>")
_DOTS = re.compile(r'("\w{4,20}"\s{0,9}:\s{0,9}\d{1,3})\.(?:\.(\d{1,3}))?(?=\s{0,9}[,}\]])')
_FENCE = re.compile(r"```\w{0,10}")


@dataclass(frozen=True)
class Found:
    """The object as it was stored, and the names of the repairs."""

    value: dict[str, Any]
    repairs: tuple[str, ...]


def find_object(text: str) -> Found | Rejected | None:
    """The first JSON object that is a critique's outer level; None where nothing speaks of one.

    Rejected where JSON is there, with why it is no critique: truncated, malformed_json or
    other_schema.
    """
    body = _THOUGHT.split(text)[-1]
    thoughts = () if body == text else ("thoughts",)
    found = _decode(body)
    if isinstance(found, Found):
        return Found(found.value, (*thoughts, *found.repairs))
    mended = _DOTS.sub(lambda m: f"{m[1]}.{m[2] or 0}", body)
    again = None if mended == body else _decode(mended)
    if isinstance(again, Found):
        return Found(again.value, (*thoughts, *again.repairs, "number"))
    if found is None or not _is_json(body):
        return found if found and found.reason == Reason.OTHER_SCHEMA else None
    tail = body.rstrip("`\n\r\t ")
    if found.reason == Reason.OTHER_SCHEMA:
        return found
    if not tail.endswith("}"):
        return Rejected(Reason.TRUNCATED, f"cut off after {tail[-40:]!r}")
    return _last_resort(mended[mended.find("{") : mended.rfind("}") + 1]) or found


def _decode(body: str) -> Found | Rejected | None:
    """Try the first opening braces one after the other."""
    fault, other = "", ""
    start = body.find("{")
    for _ in range(_TRIES):
        if start < 0:
            break
        for strict in (True, False):
            try:
                value, end = json.JSONDecoder(strict=strict).raw_decode(body, start)
            except (
                ValueError,
                RecursionError,
            ) as error:  # or 5,000 digits
                fault = fault or str(error)[:120]
                continue
            if any(key in value for key in KEYS):
                lenient = () if strict else ("control_character",)
                return Found(value, (*_around(body[:start], body[end:]), *lenient))
            other = other or f"keys {', '.join(list(value)[:6])}"
            break
        start = body.find("{", start + 1)
    if other and not fault:
        return Rejected(Reason.OTHER_SCHEMA, other[:120])
    return Rejected(Reason.MALFORMED_JSON, fault) if fault else None


def _is_json(body: str) -> bool:
    """Whether the braces are those of an object, not of LaTeX or of prose."""
    return any(f'"{key}"' in body for key in KEYS) or _FENCE.sub("", body).lstrip().startswith('{"')


def _around(before: str, after: str) -> tuple[str, ...]:
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


def _last_resort(span: str) -> Found | None:
    if len(span) > _LAST_RESORT:
        return None
    try:
        value = json_repair.loads(span)
        same = _letters(span) == _letters(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError, IndexError):
        return None
    if not same or not isinstance(value, dict) or not any(key in value for key in KEYS):
        return None
    return Found(value, ("punctuation",))


def _letters(text: str) -> str:
    return "".join(c for c in text if c.isalnum())
