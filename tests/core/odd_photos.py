"""Files as they come from cameras, programs, broken disks and attackers, with what must be read.

Each file is either a size (of the upright photo) or a reason code.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mondrian.sample.scene import draw_scene, render
from tests.core.tiff_files import (
    ASCII,
    BYTE,
    LONG,
    SHORT,
    Order,
    Page,
    array_page,
    grey_page,
    image_page,
    make_tiff,
)

SIZE = (96, 80)
UPRIGHT, TURNED = SIZE, SIZE[::-1]
PHOTO = render(draw_scene(5, 1), *SIZE)
SMALL = PHOTO.resize((66, 64))
PIXELS = np.asarray(PHOTO)
ORDERS: tuple[Order, Order] = ("<", ">")
HEIC = (Path(__file__).parent / "rendered.heic").read_bytes()
Expected = tuple[int, int] | str
OddPhoto = tuple[str, bytes, Expected]
UNREADABLE, RAW, LARGE = "image_unreadable", "image_raw", "image_too_large"


def encode(image: Image.Image, kind: str, **more: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


JPEG, PNG, TIFF = encode(PHOTO, "JPEG"), encode(PHOTO, "PNG"), encode(PHOTO, "TIFF")
WEBP, LOSSLESS = encode(PHOTO, "WEBP"), encode(PHOTO, "WEBP", lossless=True)


def odd_photos() -> list[OddPhoto]:
    return [
        *damaged_files(),
        *other_files(),
        *raw_files(),
        *large_files(),
        *odd_exif(),
        *odd_modes(),
        *odd_tiffs(),
    ]


def damaged_files() -> Iterator[OddPhoto]:
    yield "nothing", b"", UNREADABLE
    yield "zeros", bytes(5000), UNREADABLE
    yield "text", b"not a photo\n" * 50, UNREADABLE
    files = {"JPEG": JPEG, "PNG": PNG, "WebP": WEBP, "TIFF": TIFF, "HEIC": HEIC}
    for kind, content in files.items():
        for share in (0.02, 0.3, 0.9):
            yield f"{share} of a {kind}", content[: int(len(content) * share)], UNREADABLE
        yield f"a {kind} with its start lost", content[1:], UNREADABLE
        yield (
            f"a {kind} with a tail",
            content + b"<html>" * 100,
            SIZE if kind != "HEIC" else (640, 512),
        )
        magic = content[:12] + bytes(2000)
        yield f"only the magic of a {kind}", magic, UNREADABLE
    yield "a JPEG with zeros behind its header", JPEG[:160] + bytes(3000), UNREADABLE
    yield "a PNG with a wrong check sum", PNG.replace(b"IHDR", b"IHDR"[::-1], 1), UNREADABLE
    yield (
        "a HEIC with an item name that is not text",
        HEIC.replace(b"Exif", b"Ex\xf4f", 1),
        UNREADABLE,
    )


def other_files() -> Iterator[OddPhoto]:
    for kind in ("GIF", "BMP", "PDF", "ICO", "TGA", "PPM", "JPEG2000", "AVIF"):
        yield f"a {kind}", encode(PHOTO, kind), UNREADABLE
    yield "a Photoshop file", b"8BPS\0\1" + bytes(500), UNREADABLE
    yield "a JPEG XL file", b"\xff\x0a" + bytes(500), UNREADABLE
    yield "a drawing", b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNREADABLE
    yield "a web page", b"\n<!DOCTYPE html><html></html>", UNREADABLE
    yield "a video", b"\0\0\0\x20ftypmp42" + bytes(500), UNREADABLE
    yield "a resource file of a Mac", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(500), UNREADABLE


def raw_files() -> Iterator[OddPhoto]:
    """The starts of raw files, and TIFFs as cameras and Adobe write them: a preview first."""
    starts = {
        "RAF": b"FUJIFILMCCD-RAW 0201",
        "X3F": b"FOVb\3\0\2\0",
        "ORF": b"IIRO\x08\0\0\0",
        "ORF of another model": b"IIRS\x08\0\0\0",
        "RW2": b"IIU\0\x18\0\0\0",
        "CRW": b"II\x1a\0\0\0HEAPCCDR",
        "MRW": b"\0MRM\0\0\0\0",
        "CR2": b"II*\0\x10\0\0\0CR\2\0",
        "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1",
        "IIQ": b"II*\0\x10\0\0\0IIII",
    }
    for name, start in starts.items():
        yield f"a raw file: {name}", start + bytes(3000), RAW
    full = grey_page(np.zeros((80, 96), np.uint16), tags={262: (SHORT, [32803])})
    linear = array_page(PIXELS.astype(np.uint16), 34892)
    preview = image_page(SMALL, 1)
    dng = image_page(SMALL, 1, {50706: (BYTE, [1, 4, 0, 0])})
    yield "a DNG", make_tiff(Page(dng.tags, dng.pixels, [full])), RAW
    yield "a DNG of linear values", make_tiff(Page(dng.tags, dng.pixels, [linear])), RAW
    yield "a DNG in one page", make_tiff(image_page(PHOTO, 0, {50706: (BYTE, [1, 4, 0, 0])})), RAW
    for order in ORDERS:
        name = f"a NEF, order {order}"
        sub_pages = [image_page(PHOTO, 1), full]
        yield name, make_tiff(Page(preview.tags, preview.pixels, sub_pages), order=order), RAW
    yield "a PEF", make_tiff(full), RAW
    yield "a raw file in the second page", make_tiff(preview, linear), RAW
    for code in (32767, 32770, 34713, 65535):
        page = Page({**full.tags, 259: (SHORT, [code]), 262: (SHORT, [1])}, full.pixels)
        yield f"a raw file of compression {code}", make_tiff(preview, page), RAW


def large_files() -> Iterator[OddPhoto]:
    """Bombs: small files that declare or cost much."""
    yield "a PNG of 30,000 x 30,000", png_header(30_000, 30_000), LARGE
    yield "a PNG of 2^31 pixels a side", png_header(2**31 - 1, 2**31 - 1), LARGE
    yield "a PNG of 9,000 x 9,000 without pixels", png_header(9000, 9000), UNREADABLE
    size = struct.pack(">HH", 65_000, 65_000)
    size_offset = JPEG.index(b"\xff\xc0") + 5
    yield "a JPEG of 65,000 x 65,000", JPEG[:size_offset] + size + JPEG[size_offset + 4 :], LARGE
    yield (
        "a JPEG without a height",
        JPEG[:size_offset] + b"\0\0" + JPEG[size_offset + 2 :],
        UNREADABLE,
    )
    for side, expected in ((16_383, LARGE), (13_999, UNREADABLE)):
        canvas = struct.pack("<I", side)[:3] * 2
        head = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
        yield f"a WebP header of {side}", head + canvas + b"\0" * 8, UNREADABLE
        frame = LOSSLESS[12:]
        yield f"a WebP of {side} with a small frame", head + canvas + frame, expected
    yield "a JPEG of 2,000 scans", make_scans(2000), UNREADABLE
    yield "a JPEG of 65 scans", make_scans(65), UNREADABLE
    yield "a JPEG of 64 scans", make_scans(64), UPRIGHT
    for name, tag in (("sides", (256, 257)), ("tiles", (322, 323))):
        tags = dict.fromkeys(tag, (LONG, [60_000]))
        yield f"a TIFF with huge {name}", make_tiff(image_page(PHOTO, 0, tags)), LARGE
    size_offset = HEIC.index(b"ispe") + 8
    yield (
        "a HEIC of 60,000 x 60,000",
        HEIC[:size_offset] + struct.pack(">II", 60_000, 60_000) + HEIC[size_offset + 8 :],
        LARGE,
    )
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    yield "a PNG whose comment unfolds to 100 MB", PNG[:33] + comment + PNG[33:], UNREADABLE
    frames = [PHOTO.rotate(i) for i in range(40)]
    for kind in ("WEBP", "PNG"):
        moving = encode(PHOTO, kind, save_all=True, append_images=frames, duration=40)
        yield f"an animated {kind}", moving, UPRIGHT


def make_scans(count: int) -> bytes:
    """Return a progressive JPEG that repeats a scan."""
    content = encode(PHOTO, "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    last = content.rindex(b"\xff\xc4")  # tables and scan
    num_scans = content.count(b"\xff\xda", first)
    return content[:-2] + content[last:-2] * (count - num_scans) + content[-2:]


def png_header(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        PNG[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def odd_exif() -> Iterator[OddPhoto]:
    """EXIF with wrong types, counts and offsets; the photo itself is good."""
    for name, (tags, expected) in exif_by_name().items():
        exif = b"Exif\0\0" + make_tiff(Page(tags))
        for kind in ("JPEG", "WEBP", "PNG"):
            yield f"a {kind} with {name}", encode(PHOTO, kind, exif=exif), expected
    yield (
        "a JPEG with EXIF of noise",
        encode(PHOTO, "JPEG", exif=b"Exif\0\0" + bytes(range(200))),
        UPRIGHT,
    )
    yield "a JPEG with EXIF cut off", encode(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0"), UPRIGHT
    table_offset = JPEG.index(b"\xff\xdb")
    for marker in range(0xE1, 0xF0):
        segment = (
            b"\xff"
            + bytes([marker])
            + b"\0\x20"
            + b"MPF\0ICC_PROFILE\0\xff\0Adobe\0".ljust(30, b"\xfe")
        )
        yield (
            f"a JPEG with noise in segment {marker:x}",
            JPEG[:table_offset] + segment + JPEG[table_offset:],
            UPRIGHT,
        )


def exif_by_name() -> dict[str, tuple[dict[int, Any], tuple[int, int]]]:
    return {
        "orientation 6": ({274: (SHORT, [6])}, TURNED),
        "orientation 6 as LONG": ({274: (LONG, [6])}, TURNED),
        "orientation twice": ({274: (SHORT, [6, 1])}, TURNED),
        "orientation 99": ({274: (SHORT, [99])}, UPRIGHT),
        "orientation as text": ({274: (ASCII, list(b"rotated\0"))}, UPRIGHT),
        "an address as text": ({34853: (ASCII, list(b"Paris\0")), 274: (SHORT, [8])}, TURNED),
        "a maker as number": ({271: (LONG, [7]), 274: (SHORT, [6])}, TURNED),
        "a date as number": ({306: (SHORT, [1, 2, 3, 4, 5]), 274: (SHORT, [6])}, TURNED),
        "sub-pages at no place": ({34665: (LONG, [10**9]), 274: (SHORT, [6])}, TURNED),
        "resolution as text": (
            {282: (ASCII, list(b"high\0")), 296: (ASCII, list(b"x\0"))},
            UPRIGHT,
        ),
    }


def odd_modes() -> Iterator[OddPhoto]:
    for mode in ("1", "L", "P", "LA", "RGBA"):
        yield f"a PNG in {mode}", encode(PHOTO.convert(mode), "PNG"), UPRIGHT
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"):
        yield f"a TIFF in {mode}", encode(PHOTO.convert(mode), "TIFF"), UPRIGHT
    for mode in ("L", "CMYK"):
        yield f"a JPEG in {mode}", encode(PHOTO.convert(mode), "JPEG"), UPRIGHT
    yield "a WebP with alpha", encode(PHOTO.convert("RGBA"), "WEBP"), UPRIGHT


def odd_tiffs() -> Iterator[OddPhoto]:
    preview, full = image_page(SMALL, 1), image_page(PHOTO)
    layouts: list[tuple[Order, bool]] = [("<", False), (">", False), ("<", True)]
    for order, big in layouts:
        name = f"order {order}, big {big}"
        yield (
            f"a page behind its preview, {name}",
            make_tiff(preview, full, order=order, big=big),
            UPRIGHT,
        )
        sub = make_tiff(Page(preview.tags, preview.pixels, [full]), order=order, big=big)
        yield f"a page below its preview, {name}", sub, UPRIGHT
    old = Page({**image_page(SMALL).tags, 255: (SHORT, [2])}, preview.pixels)
    yield "a page behind a preview of TIFF 5", make_tiff(old, full), UPRIGHT
    yield "two previews", make_tiff(preview, image_page(PHOTO, 1)), UPRIGHT
    yield "two full pages", make_tiff(full, image_page(SMALL)), UPRIGHT
    grey = PIXELS[..., 0].astype(float) / 255
    for order in ORDERS:
        read = {
            "16 bits": grey_page((grey * 65535).astype(np.uint16), order),
            "RGB of 16 bits": array_page(PIXELS.astype(np.uint16) * 257, 2, order),
            "CMYK of 16 bits": array_page(
                np.repeat(PIXELS[..., :1], 4, 2).astype(np.uint16) * 200, 5, order
            ),
        }
        refused = {
            "signed values": grey_page((grey * 32767).astype(np.int16), order),
            "values of 32 bits": grey_page((grey * (2**32 - 1)).astype(np.uint32), order),
            "half floats": grey_page(grey.astype(np.float16), order),
            "floats": grey_page(grey.astype(np.float32), order),
            "floats with NaN": grey_page(
                np.where(grey > 0.5, np.nan, np.inf).astype(np.float32), order
            ),
            "doubles": grey_page(grey, order),
            "RGB floats": array_page(PIXELS.astype(np.float32), 2, order),
            "Lab of 16 bits": array_page(PIXELS.astype(np.uint16), 8, order),
            "LogLuv": array_page(PIXELS, 32845, order),
        }
        for name, page in read.items():
            yield f"a TIFF of {name}, order {order}", make_tiff(page, order=order), UPRIGHT
        for name, page in refused.items():
            yield f"a TIFF of {name}, order {order}", make_tiff(page, order=order), UNREADABLE
    loop = bytearray(make_tiff(full))
    yield (
        "a TIFF whose first page lies nowhere",
        bytes(loop[:4]) + b"\xff\xff\xff\x7f" + bytes(loop[8:]),
        UNREADABLE,
    )
    yield "a TIFF without tags", make_tiff(Page({})), UNREADABLE
