"""The shape of a response, in the notation of tests/serving/exchanges/*.json, and its check.

The shape of a field is a kind ("words"), several kinds ("text or null"), a value ("= UP", true, 3,
null), a pattern ("~ ^uploads/"), an object of shapes (a name with ? is optional, other names are
allowed; {"only": {…}} allows none), or a list with the one shape of all items. {"as json": …} is
text that contains JSON.
The shape of HTML is a number of elements by selector (7), or the text of each ("= …", "~ …").
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import lxml.html

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_PART = re.compile(r"(\w*)((?:\.[\w-]+)*)(?:\[(\w[\w-]*)(?:=([\w-]+))?\])?")


def differences(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """Yield the differences of a value from its shape: `path: value, shape`."""
    if isinstance(shape, dict) and list(shape) == ["as json"]:
        yield from differences(json.loads(value), shape["as json"], path)
    elif isinstance(shape, dict) and list(shape) == ["only"]:
        yield from differences(value, shape["only"], path)
        yield from (f"{path}.{name} is not expected" for name in value if name not in shape["only"])
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is not an object"
            return
        for name, inner in shape.items():
            plain = name.removesuffix("?")
            if plain in value:
                yield from differences(value[plain], inner, f"{path}.{plain}")
            elif plain == name:
                yield f"{path}.{name} is missing"
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            yield f"{path}: {value!r} is not a list with items"
            return
        for i, item in enumerate(value):
            yield from differences(item, shape[0], f"{path}[{i}]")
    elif not (matches(value, shape) if isinstance(shape, str) else value == shape):
        yield f"{path}: {value!r:.200} is not {shape!r}"


def matches(value: Any, shape: str) -> bool:
    """Check a value against a kind, an exact value or a pattern."""
    mark, _, rest = shape.partition(" ")
    if mark == "=":
        return bool(value == rest)
    if mark == "~":
        return isinstance(value, str) and re.search(rest, value) is not None
    return any(_is_kind(value, kind) for kind in shape.split(" or "))


def _is_kind(value: Any, kind: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kinds = {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "number": number,
        "count": number and isinstance(value, int) and value >= 0,
        "object": isinstance(value, dict),
        "list": isinstance(value, list),
        "text": isinstance(value, str),
        "words": isinstance(value, str) and bool(value.strip()),
        "id": isinstance(value, str) and _ID.fullmatch(value) is not None,
        "seconds": number and 1e9 < value < 1e10,
        "time": isinstance(value, str) and _is_time(value),
    }
    return kinds[kind]


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).year > 2000
    except ValueError:
        return False


def html_differences(text: str, outline: dict[str, Any]) -> Iterator[str]:
    """Yield the differences of a page from its outline."""
    page = lxml.html.fromstring(f"<div>{text}</div>" if "<body" not in text else text)
    for selector, expected in outline.items():
        nodes = page.xpath(xpath(selector))
        if isinstance(expected, int):
            if len(nodes) != expected:
                yield f"{selector}: {len(nodes)} of {expected}"
        elif not nodes:
            yield f"{selector}: none"
        else:
            texts = (" ".join(node.text_content().split()) for node in nodes)
            yield from (
                f"{selector}: {t!r} is not {expected!r}" for t in texts if not matches(t, expected)
            )


def xpath(selector: str) -> str:
    """Convert a CSS selector with tags, classes, [attributes], children and descendants."""
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


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield server-sent events: name (empty if it has none) and data."""
    name = ""
    for line in lines:
        kind, _, rest = line.partition(": ")
        if kind == "event":
            name = rest
        elif kind == "data":
            yield name, json.loads(rest)
            name = ""
