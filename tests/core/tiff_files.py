"""TIFF files made tag by tag: pages, sub-pages, and modes that Pillow does not write."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BYTE, ASCII, SHORT, LONG, LONG8 = 1, 2, 3, 4, 16
Order = Literal["<", ">"]
_FORMATS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", LONG8: "Q"}
Tags = Mapping[int, tuple[int, Sequence[int]]]  # number -> type and values


@dataclass
class Page:
    """A page: its tags, its pixels as one strip, and the pages below it."""

    tags: Tags
    pixels: bytes = b""
    sub_pages: list["Page"] = field(default_factory=list)


def grey_page(values: NDArray[Any], order: Order = "<", **more: Any) -> Page:
    return array_page(values[..., None], 1, order, **more)


def image_page(image: Image.Image, subfile: int = 0, tags: Tags | None = None) -> Page:
    """Return a page of 8-bit RGB; subfile 1 marks it as a preview."""
    return array_page(
        np.asarray(image.convert("RGB")), 2, tags={254: (LONG, [subfile]), **(tags or {})}
    )


def array_page(
    values: NDArray[Any],
    photometric: int,
    order: Order = "<",
    bits: int = 0,
    tags: Tags | None = None,
) -> Page:
    height, width, channels = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = bits or values.dtype.itemsize * 8
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    own: Tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * channels),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        277: (SHORT, [channels]),
        278: (LONG, [height]),
        339: (SHORT, [kind] * channels),
    }
    return Page({**own, **(tags or {})}, content)


def make_tiff(*pages: Page, order: Order = "<", big: bool = False) -> bytes:
    """Return a file with these pages in a row."""
    mark = {"<": b"II", ">": b"MM"}[order]
    head = (
        mark + struct.pack(order + "HHHQ", 43, 8, 0, 16)
        if big
        else mark + struct.pack(order + "HI", 42, 8)
    )
    content = bytearray(head)
    _write_pages(content, pages, order, big)
    return bytes(content)


def _write_pages(content: bytearray, pages: Sequence[Page], order: Order, big: bool) -> list[int]:
    """Append pages that link to the next one; return their offsets."""
    number, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    offsets, link = [], 0
    for page in pages:
        tags: dict[int, tuple[int, Sequence[int]]] = dict(page.tags)
        if page.pixels:
            tags |= {273: (LONG, [0]), 279: (LONG, [len(page.pixels)])}
        if page.sub_pages:
            tags[330] = (LONG, [0] * len(page.sub_pages))
        start = len(content)
        if link:
            content[link : link + struct.calcsize(number)] = struct.pack(order + number, start)
        offsets.append(start)
        content += bytes(
            struct.calcsize(order + count) + entry * len(tags) + struct.calcsize(number)
        )
        link = len(content) - struct.calcsize(number)
        if page.pixels:
            tags[273] = (LONG, [len(content)])
            content += page.pixels + bytes(len(page.pixels) % 2)
        if page.sub_pages:
            lists = [_write_pages(content, [sub], order, big)[0] for sub in page.sub_pages]
            tags[330] = (LONG, lists)
        directory = struct.pack(order + count, len(tags))
        for key, (kind, values) in sorted(tags.items()):
            data = struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)
            size = struct.calcsize(number)
            if len(data) > size:
                data_field = struct.pack(order + number, len(content))
                content += data + bytes(len(data) % 2)
            else:
                data_field = data.ljust(size, b"\0")
            directory += struct.pack(f"{order}HH{number}", key, kind, len(values)) + data_field
        content[start : start + len(directory)] = directory
    return offsets
