"""Files that people and attackers upload instead of a photo, made byte by byte."""

import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from tests.core.odd_photos import chunk, encode

SECRET = "SECRET-PLACE"  # in all metadata of `encode_with_metadata`
SCRIPT = b"<html><script>alert(1)</script></html>"


def rejected_files(photo: Image.Image, heic: bytes) -> dict[str, tuple[bytes, int]]:
    """Return files by description, with the status that rejects them."""
    jpeg, png = encode(photo, "JPEG"), encode(photo, "PNG")
    return {
        "nothing": (b"", 400),
        "text": (b"not a photo at all\n" * 100, 415),
        "a PNG of 9000x9000 that is 200 bytes": (make_png(9000, 9000), 422),
        "a PNG of 30000x30000 that is 200 bytes": (make_png(30_000, 30_000), 422),
        "a PNG whose comment unfolds to 100 MB": (make_png_with_zip_bomb(), 415),
        "half a JPEG": (jpeg[: len(jpeg) // 2], 415),
        "half a PNG": (png[: len(png) // 2], 415),
        "half a HEIC": (heic[: len(heic) // 2], 415),
        "a HEIC that ends the process of its reader": (heic.replace(b"Exif", b"Ex\xf4f", 1), 415),
        "an SVG with a script": (b"<svg xmlns='http://www.w3.org/2000/svg'>" + SCRIPT, 415),
        "a GIF": (encode(photo, "GIF"), 415),
        "a PDF": (encode(photo, "PDF"), 415),
        "a ZIP": (make_zip(), 415),
        "a page that begins like a JPEG": (b"\xff\xd8\xff\xe0" + SCRIPT * 50, 415),
        "one pixel": (encode(Image.new("RGB", (1, 1)), "PNG"), 422),
        "one even tone": (encode(Image.new("RGB", (400, 300), "grey"), "PNG"), 422),
        "a strip of 20:1": (encode(photo.resize((1400, 66)), "PNG"), 422),
        "a TIFF whose strips lie beyond its end": (make_truncated_tiff(photo), 415),
    }


def accepted_files(photo: Image.Image, heic: bytes) -> dict[str, bytes]:
    """Return unusual files by description that are still photos."""
    jpeg, png = encode(photo, "JPEG"), encode(photo, "PNG")
    grey = np.asarray(photo.convert("L"), np.uint16) * 257
    turned = [photo.transpose(Image.Transpose.ROTATE_180)]
    return {
        "a JPEG with a page behind it": jpeg + SCRIPT,
        "a PNG with a ZIP behind it": png + make_zip(),
        "a JPEG in CMYK": encode(photo.convert("CMYK"), "JPEG"),
        "a PNG of 16 bits": encode(Image.fromarray(grey), "PNG"),
        "a PNG with transparency": encode(photo.convert("RGBA"), "PNG"),
        "a PNG with a palette": encode(photo.convert("P"), "PNG"),
        "an animated WebP": encode(photo, "WEBP", save_all=True, append_images=turned),
        "a TIFF with odd tags": make_tiff_with_odd_tags(photo),
        "a HEIC": heic,
        "a JPEG with metadata": encode_with_metadata(photo, "JPEG"),
        "a PNG with metadata": encode_with_metadata(photo, "PNG"),
        "a WebP with metadata": encode_with_metadata(photo, "WEBP"),
    }


def encode_with_metadata(photo: Image.Image, kind: str) -> bytes:
    """Return a photo with EXIF (GPS), XMP, a comment and a color profile."""
    exif = Image.Exif()
    exif[0x010E] = SECRET
    exif.get_ifd(0x8825).update({1: "N", 2: (37.0, 44.0, 4.0), 29: SECRET})
    more: dict[str, Any] = {"exif": exif, "icc_profile": SECRET.encode()}
    if kind == "PNG":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_text("Comment", SECRET)
    else:
        more |= {"xmp": f"<x:xmpmeta>{SECRET}</x:xmpmeta>".encode(), "comment": SECRET}
    content = encode(photo, kind, **more)
    assert SECRET.encode() in content
    return content


def make_png(width: int, height: int, *chunks: bytes) -> bytes:
    """Return a PNG that declares a size and contains almost no data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def make_png_with_zip_bomb() -> bytes:
    return make_png(300, 300, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)))


def make_zip() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("../../etc/passwd", "root")
    return content.getvalue()


def make_tiff_with_odd_tags(photo: Image.Image) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[65000], tags[65001] = "x" * 5000, "\x00\x01", (1, 2, 3)
    return encode(photo, "TIFF", tiffinfo=tags)


def make_truncated_tiff(photo: Image.Image) -> bytes:
    content = encode(photo, "TIFF")
    offset = content.index(struct.pack("<HHI", 273, 4, 1)) + 8
    return content[:offset] + struct.pack("<I", 0xFFFFFF00) + content[offset + 4 :]
