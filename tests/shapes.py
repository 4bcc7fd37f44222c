"""What an answer has to look like, as tests/serving/exchanges/*.json write it, and where it
differs.

A field is told by a kind ("words"), several ("text or null"), its value ("= UP", true, 3, null), a
pattern ("~ ^uploads/"), an object of fields (a name with ? may be missing, others may be there
too), or a list of the one shape that each of its items has. {"as json": …} is text that holds it.
HTML is told by selectors: how many there are of one (7), or what each of them says ("= …", "~ …").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import lxml.html

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_PART = re.compile(r"(\w*)((?:\.[\w-]+)*)(?:\[(\w[\w-]*)(?:=([\w-]+))?\])?")


def differences(told: Any, shape: Any, at: str = "") -> Iterator[str]:
    """Where something is not of a shape: `field: what it is, what it should be`."""
    if isinstance(shape, dict) and list(shape) == ["as json"]:
        yield from differences(json.loads(told), shape["as json"], at)
    elif isinstance(shape, dict):
        if not isinstance(told, dict):
            yield f"{at}: {told!r} is no object"
            return
        for name, inner in shape.items():
            plain = name.removesuffix("?")
            if plain in told:
                yield from differences(told[plain], inner, f"{at}.{plain}")
            elif plain == name:
                yield f"{at}.{name} is missing"
    elif isinstance(shape, list):
        if not isinstance(told, list) or not told:
            yield f"{at}: {told!r} is no list with something in it"
            return
        for i, item in enumerate(told):
            yield from differences(item, shape[0], f"{at}[{i}]")
    elif not (says(told, shape) if isinstance(shape, str) else told == shape):
        yield f"{at}: {str(told)[:200]!r} is not {shape!r}"


def says(told: Any, shape: str) -> bool:
    """Whether a value is of a kind, a given one, or like a pattern."""
    mark, _, rest = shape.partition(" ")
    if mark == "=":
        return bool(told == rest)
    if mark == "~":
        return isinstance(told, str) and re.search(rest, told) is not None
    return any(_is(told, kind) for kind in shape.split(" or "))


def _is(told: Any, kind: str) -> bool:
    number = isinstance(told, int | float) and not isinstance(told, bool)
    kinds = {
        "null": told is None,
        "boolean": isinstance(told, bool),
        "number": number,
        "count": number and isinstance(told, int) and told >= 0,
        "object": isinstance(told, dict),
        "list": isinstance(told, list),
        "text": isinstance(told, str),
        "words": isinstance(told, str) and bool(told.strip()),
        "id": isinstance(told, str) and _ID.fullmatch(told) is not None,
        "time": isinstance(told, str) and _is_time(told),
    }
    return kinds[kind]


def _is_time(told: str) -> bool:
    try:
        return datetime.fromisoformat(told).year > 2000
    except ValueError:
        return False


def html_differences(text: str, outline: dict[str, Any]) -> Iterator[str]:
    """Where a page is not as its outline says."""
    page = lxml.html.fromstring(f"<div>{text}</div>" if "<body" not in text else text)
    for selector, wanted in outline.items():
        found = page.xpath(xpath(selector))
        if isinstance(wanted, int):
            if len(found) != wanted:
                yield f"{selector}: {len(found)} of {wanted}"
        elif not found:
            yield f"{selector}: none"
        else:
            texts = (" ".join(one.text_content().split()) for one in found)
            yield from (
                f"{selector}: {t!r} is not {wanted!r}" for t in texts if not says(t, wanted)
            )


def xpath(selector: str) -> str:
    """The part of CSS that the outlines use: tags, classes, [attributes], children, descendants."""
    path, axis = "", "//"
    for part in selector.replace(">", " > ").split():
        if part == ">":
            axis = "/"
            continue
        match = _PART.fullmatch(part)
        assert match, selector
        tag, classes, attribute, value = match.groups()
        path += f"{'descendant-or-self::' if not path else axis}{tag or '*'}"
        for name in filter(None, classes.split(".")):
            path += f"[contains(concat(' ', @class, ' '), ' {name} ')]"
        if attribute:
            path += f"[@{attribute}='{value}']" if value else f"[@{attribute}]"
        axis = "//"
    return path


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events as they come: name (empty where it has none) and data."""
    name = ""
    for line in lines:
        kind, _, rest = line.partition(": ")
        if kind == "event":
            name = rest
        elif kind == "data":
            yield name, json.loads(rest)
            name = ""
