"""Bytes of a HEIF file -> whether its reader survives them.

pi-heif 1.4.0 ends the whole process, not with an exception, where the kind or a name of an item is
no UTF-8: its C code hands NULL on. One byte of a photograph is enough.
"""

from __future__ import annotations

from collections.abc import Iterator

_HEAD = 8  # bytes of a box before its content: its length and its kind


def is_safe_to_decode(content: bytes) -> bool:
    """False for a HEIF file that must not be opened; other files are not looked at."""
    if content[4:8] != b"ftyp":
        return True
    return all(_is_text(entry) for box in _boxes(content) for entry in _entries(box))


def _boxes(content: bytes) -> Iterator[bytes]:
    """What the outermost boxes hold, all but the picture itself (ISO 14496-12, 4.2)."""
    offset = 0
    while offset + _HEAD <= len(content):
        size, head = int.from_bytes(content[offset : offset + 4], "big"), _HEAD
        if size == 1:  # the length follows in 64 bits
            size, head = int.from_bytes(content[offset + 8 : offset + 16], "big"), 16
        end = offset + size if size >= head else len(content)
        if content[offset + 4 : offset + 8] != b"mdat":
            yield content[offset + head : end]
        offset = end


def _entries(box: bytes) -> Iterator[bytes]:
    """Of each `infe` box in another: kind and names of an item (ISO 14496-12, 8.11.6)."""
    offset = box.find(b"infe")
    while offset >= 0:
        size = int.from_bytes(box[max(0, offset - 4) : offset], "big")
        end = offset - 4 + size if size > _HEAD else len(box)
        number = 4 if box[offset + 4 : offset + 5] >= b"\3" else 2
        yield box[offset + 8 + number + 2 : end]
        offset = box.find(b"infe", offset + 4)


def _is_text(entry: bytes) -> bool:
    try:
        entry.decode()
    except UnicodeDecodeError:
        return False
    return True
