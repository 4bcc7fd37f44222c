"""Headings of a spreadsheet -> keys of an entry: `Focus and Sharpness: Comment` is
`focus_sharpness_comment`, and the columns of the parts become one critique."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from mondrian.core.errors import join_first
from mondrian.critique.normalize import dimension_name
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.jobs import PHOTO_KEYS, TEXT_KEYS

_PREFIXES = {name: re.sub(r"[^a-z]+", "_", name.lower()) for name in DIMENSIONS}
_PARTS = ("score", "comment", "recommendation")
PART_KEYS = tuple(f"{prefix}_{part}" for prefix in _PREFIXES.values() for part in _PARTS)
_LIST_KEYS = ("key_strengths", "priority_improvements")
_KEYS = (  # other than those of the parts
    *PHOTO_KEYS,
    *TEXT_KEYS,
    *_LIST_KEYS,
    *"image_description overall_score technical_notes id advisor prompt mode model adapter".split(),
    "created_at",
)
_PHOTO_HEADINGS = {
    "photo": "photos photograph picture photofile photofilename photoname photopath picturefile",
    "image": "imagefile imagename imagefilename",
}
_OTHER_HEADINGS = {
    "overall_score": "overall overallgrade overallrating totalscore",
    "image_description": "description photodescription picturedescription",
    "key_strengths": "keystrength strengths",
    "priority_improvements": "priorityimprovement improvements priorities",
    "technical_notes": "technicalnote notes",
    "advisor": "adviser",
    "created_at": "created",
}
_OTHER_PARTS = {
    "score": "rating points grade mark",
    "comment": "comments remark remarks feedback",
    "recommendation": "recommendations advice suggestion suggestions howtoimprove",
}
_OTHER_NAMES = {key: others.split() for key, others in _OTHER_HEADINGS.items()}
_KEY_BY_LETTERS = {key.replace("_", ""): key for key in _KEYS} | {
    other: key
    for key, others in (*_PHOTO_HEADINGS.items(), *_OTHER_HEADINGS.items())
    for other in others.split()
}
_PART_BY_LETTERS = {part: part for part in _PARTS} | {
    other: part for part, others in _OTHER_PARTS.items() for other in others.split()
}
MAX_COLUMNS = 1000
_DECIMAL = re.compile(r"\s*(\d{1,3})(?:[.,](\d{0,3}))?\s*(?:/\s*10(?:[.,]0+)?\s*)?")
_BULLET = re.compile(r"^(?:[-*•–]\s+)+")


def heading_keys(headings: Iterable[str]) -> list[str]:
    """Return the key of each heading; one that is not known stays, in lower case.

    A dimension alone, such as `Composition`, is its score, or its comment if a score has a column.
    `Notes` are the technical ones unless these have a column.
    """
    names = [heading.strip().lower() for heading in headings]
    keys = [_heading_key(name) for name in names]
    exact = {key for key, name in zip(keys, names, strict=True) if _letters(name) == _letters(key)}
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        if key in exact and _letters(name) in _OTHER_NAMES.get(key, ()):
            keys[i] = name
    for prefix in _PREFIXES.values():
        alone = f"{prefix}_"
        for part in ("score", "comment"):
            if alone in keys and f"{prefix}_{part}" not in keys:
                keys[keys.index(alone)] = f"{prefix}_{part}"
    return keys


def count_known(keys: Iterable[str]) -> int:
    return len({*keys} & {*_KEYS, *PART_KEYS})


def find_heading_problem(headings: Sequence[str]) -> str | None:
    """Return why columns cannot give critiques: one is missing, or is there twice."""
    if len(headings) > MAX_COLUMNS:
        return f"has {len(headings):,} columns in its first row; at most {MAX_COLUMNS:,}"
    keys = heading_keys(headings)
    for accepted, names in (
        (PHOTO_KEYS, " or ".join(PHOTO_KEYS[:4])),
        ((*TEXT_KEYS, *PART_KEYS), f"{' or '.join(TEXT_KEYS[:4])}, nor {PART_KEYS[0]} and so on"),
    ):
        if {*accepted}.isdisjoint(keys):
            existing = ", ".join(map(repr, filter(None, headings)))[:200] or "no columns"
            return (
                f"has no column {names}; it has {existing} "
                "(mondrian init --csv_template writes an example)"
            )
    missing = [key for key in PART_KEYS if key not in keys]
    if 0 < len(missing) < len(PART_KEYS) and {*TEXT_KEYS}.isdisjoint(keys):
        return (
            f"has no column {join_first(missing, 4)}; add {'it' if len(missing) == 1 else 'them'}"
        )
    for key, count in Counter(filter(None, keys)).items():
        if count > 1:
            names = " and ".join(repr(h) for h, k in zip(headings, keys, strict=True) if k == key)
            return f"has the column {key!r:.80} twice ({names:.120}); rename one"
    return None


def merge_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Merge columns such as composition_score and composition_comment into one critique.

    row   values by key; a score may have a decimal comma, and a list is separated by semicolons
    """
    entry = dict(row)
    dimensions = []
    for name, prefix in _PREFIXES.items():
        parts = {part: entry.pop(f"{prefix}_{part}", None) for part in _PARTS}
        parts["score"] = _read_decimal(parts["score"])
        dimensions += [{"name": name, **parts}] if any(parts.values()) else []
    if "overall_score" in entry:
        entry["overall_score"] = _read_decimal(entry["overall_score"])
    for key in _LIST_KEYS:
        if isinstance(entry.get(key), str):
            entry[key] = _split_items(entry[key])
    return entry | ({"dimensions": dimensions} if dimensions else {})


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name)


@lru_cache(maxsize=1000)
def _heading_key(name: str) -> str:
    letters = _letters(name)
    if key := _KEY_BY_LETTERS.get(letters):
        return key
    for word, part in _PART_BY_LETTERS.items():
        before = letters.removesuffix(word)
        after = re.sub("^(?:of|on|for)", "", letters.removeprefix(word))
        for rest in {before, after} - {letters}:
            if dimension := dimension_name(rest):
                return f"{_PREFIXES[dimension]}_{part}"
    dimension = dimension_name(letters)
    return f"{_PREFIXES[dimension]}_" if dimension else name


def _read_decimal(stored: Any) -> Any:
    """Return `7,5` or `7,5/10` as `7.5`; anything else unchanged."""
    match = _DECIMAL.fullmatch(stored) if isinstance(stored, str) else None
    return f"{match[1]}.{match[2]}" if match and match[2] else match[1] if match else stored


def _split_items(cell: str) -> list[str]:
    if cell.lstrip().startswith("["):
        try:
            items = json.loads(cell)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    items = (_BULLET.sub("", item.strip()) for item in re.split(r"[;\n]", cell))
    return [item for item in items if item]
