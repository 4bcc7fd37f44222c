"""The boxes of a HEIF file, read before its decoder sees it (ISO 14496-12 and 23008-12)."""

from collections.abc import Iterator


def is_safe_to_decode(content: bytes) -> bool:
    """Return False for a HEIF file with an item type or name that is not UTF-8.

    pi-heif 1.4.0 aborts the process on it, without an exception: its C code passes on NULL.
    """
    if content[4:8] != b"ftyp":
        return True
    try:
        for box in _outer_boxes(content):
            for item in _item_names(box):
                item.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_size(content: bytes) -> tuple[int, int]:
    """Return width and height of the largest image that the file declares; 0 if there is none."""
    sizes = (size for box in _outer_boxes(content) for size in _image_sizes(box))
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _outer_boxes(content: bytes) -> Iterator[bytes]:
    """Yield the content of the outermost boxes, except the pixels (ISO 14496-12, 4.2)."""
    offset = 0
    while offset + 8 <= len(content):
        size, header = int.from_bytes(content[offset : offset + 4], "big"), 8
        if size == 1:  # the size follows in 64 bits
            size, header = int.from_bytes(content[offset + 8 : offset + 16], "big"), 16
        end = offset + size if size >= header else len(content)
        if content[offset + 4 : offset + 8] != b"mdat":
            yield content[offset + header : end]
        offset = end


def _item_names(box: bytes) -> Iterator[bytes]:
    """Yield type and names of the item of each `infe` box inside a box (ISO 14496-12, 8.11.6)."""
    offset = box.find(b"infe")
    while offset >= 0:
        size = int.from_bytes(box[max(0, offset - 4) : offset], "big")
        end = offset - 4 + size if size > 8 else len(box)
        number = 4 if box[offset + 4 : offset + 5] >= b"\3" else 2
        yield box[offset + 8 + number + 2 : end]
        offset = box.find(b"infe", offset + 4)


def _image_sizes(box: bytes) -> Iterator[tuple[int, int]]:
    """Yield width and height of each `ispe` box inside a box (ISO 23008-12, 6.5.3)."""
    offset = box.find(b"ispe")
    while offset >= 0:
        width, height = (box[start : start + 4] for start in (offset + 8, offset + 12))
        yield int.from_bytes(width, "big"), int.from_bytes(height, "big")
        offset = box.find(b"ispe", offset + 4)
