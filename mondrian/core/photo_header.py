"""What the header of a photo says, read before a decoder sees the file.

Decoders allocate memory for what a header declares and take time for every scan of a JPEG, so
both are bounded here. Raw files are named here too: Pillow would return their small preview.
"""

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from mondrian.core import heif_boxes, tiff_pages
from mondrian.core.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
MAX_SCANS = 64  # of a JPEG: libjpeg writes 10 (18 in CMYK), mozjpeg chooses from 64
MAX_FILE_BYTES = 2**31  # 200 megapixels in 16-bit RGB have 1.2e9
ImageSource = Path | BytesIO
Size = tuple[int, int]  # width, height

_HEIF_BRANDS = tuple(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")
_RAW_STARTS = {  # start of the file -> maker
    b"FUJIFILMCCD-RAW": "Fujifilm RAF",
    b"FOVb": "Sigma X3F",
    b"IIRO": "Olympus ORF",
    b"IIRS": "Olympus ORF",
    b"MMOR": "Olympus ORF",
    b"IIU\0": "Panasonic RW2",
    b"\0MRM": "Minolta MRW",
    b"II\x1a\0\0\0HEAPCCDR": "Canon CRW",
}
_RAW_AT_8 = {b"CR\2": "Canon CR2", b"crx ": "Canon CR3", b"IIII": "Phase One IIQ"}
_OTHER_STARTS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"\xff\x0a": "a JPEG XL file",
    b"PK\3\4": "a ZIP file",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"\0\5\x16\7": "a Mac's resource file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_SIZE_MARKERS = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of a segment; not stuffing, not restarts


@dataclass(frozen=True)
class PhotoHeader:
    """The format by Pillow's name, and how much there is to decode."""

    format: str
    size: Size  # pixels declared; (0, 0) if unknown
    scans: int = 1  # a decoder visits all pixels in each
    page: tiff_pages.TiffPage | None = None  # the photo's page in a TIFF

    @property
    def work(self) -> int:
        """The pixels that a decoder visits."""
        return self.size[0] * self.size[1] * self.scans


def read_header(source: ImageSource) -> PhotoHeader:
    """Return the header of a photo.

    Raises PhotoError with reason image_missing, image_unreadable, image_raw or image_too_large.
    """
    try:
        if isinstance(source, BytesIO):
            source.seek(0)
            header = _read_header(source)
            source.seek(0)
            return header
        with source.open("rb") as file:
            return _read_header(file)
    except FileNotFoundError:
        raise PhotoError("image_missing", "no such file") from None
    except (OSError, OverflowError, ValueError) as error:  # a folder, a damaged disk, odd offsets
        raise PhotoError("image_unreadable", str(error)[:200]) from None


def _read_header(file: BinaryIO) -> PhotoHeader:
    num_bytes = file.seek(0, 2)
    if num_bytes > MAX_FILE_BYTES:
        detail = f"a file of {num_bytes:,} bytes; at most {MAX_FILE_BYTES:,}"
        raise PhotoError("image_too_large", detail)
    file.seek(0)
    head = file.read(64)
    _check_raw(head)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(file.read())
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PhotoHeader("PNG", (_number(head, 16, 4), _number(head, 20, 4)))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _read_webp(file.read())
    if head.startswith(_TIFF_STARTS):
        page = tiff_pages.read_page(file)
        return PhotoHeader("TIFF", page.size, page=page)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return _read_heif(file.read())
    raise PhotoError("image_unreadable", f"{_name_content(head)}, not one of {', '.join(FORMATS)}")


def _check_raw(head: bytes) -> None:
    names = [name for start, name in _RAW_STARTS.items() if head.startswith(start)]
    if head.startswith(_TIFF_STARTS) or head[4:8] == b"ftyp":
        names += [name for mark, name in _RAW_AT_8.items() if head[8:].startswith(mark)]
    if names:
        raise PhotoError("image_raw", f"a raw file ({names[0]}); export it as JPEG or TIFF")


def _name_content(head: bytes) -> str:
    """Return what a file other than a photo is, as far as its first bytes show."""
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file of zeros (copied or downloaded incompletely)"
    if head[4:8] == b"ftyp":
        return "an AVIF image" if head[8:11] == b"avi" else "a video"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((name for key, name in _OTHER_STARTS.items() if start.startswith(key)), "a file")


def _read_jpeg(content: bytes) -> PhotoHeader:
    """Walk the segments; the data of scans is skipped by searching for the next marker."""
    size, scans, offset = (0, 0), 0, 2
    while match := _MARKER.search(content, offset):
        offset, marker = match.end(), content[match.end() - 1]
        if marker == _END_OF_IMAGE:
            break
        if marker in _SIZE_MARKERS and not any(size):
            size = (_number(content, offset + 5, 2), _number(content, offset + 3, 2))
        if marker == _START_OF_SCAN:
            scans += 1
            if scans == 1 and content.find(b"\xff\xda", offset) < 0:
                break
        offset += _number(content, offset, 2)
    if scans > MAX_SCANS:
        detail = f"a JPEG of {scans:,} scans; at most {MAX_SCANS}, and programs write up to 20"
        raise PhotoError("image_unreadable", f"{detail}; export it again")
    return PhotoHeader("JPEG", size, max(1, scans))


def _read_webp(content: bytes) -> PhotoHeader:
    """Read the size of the canvas; Pillow allocates it twice before it looks for a frame."""
    size, has_frame, offset = (0, 0), False, 12
    while offset + 8 <= len(content):
        kind, num_bytes = content[offset : offset + 4], _number(content, offset + 4, 4, "little")
        data = content[offset + 8 : offset + 38]
        if kind == b"VP8X":
            size = (_number(data, 4, 3, "little") + 1, _number(data, 7, 3, "little") + 1)
        elif kind in (b"VP8 ", b"VP8L", b"ANMF"):
            has_frame = offset + 8 + num_bytes <= len(content)
            size = size if any(size) else _webp_frame_size(kind, data)
            break
        offset += 8 + num_bytes + num_bytes % 2
    if not has_frame:
        raise PhotoError("image_unreadable", "a WebP whose image is missing or cut off")
    return PhotoHeader("WEBP", size)


def _webp_frame_size(kind: bytes, data: bytes) -> Size:
    """Return the size of a frame (RFC 9649 3.4; RFC 6386 9.1)."""
    if kind == b"VP8 ":
        width, height = _number(data, 6, 2, "little"), _number(data, 8, 2, "little")
        return width & 0x3FFF, height & 0x3FFF
    bits = _number(data, 1, 4, "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _read_heif(content: bytes) -> PhotoHeader:
    if not heif_boxes.is_safe_to_decode(content):
        raise PhotoError("image_unreadable", "a HEIF file whose item names are not text")
    return PhotoHeader("HEIF", heif_boxes.read_size(content))


def _number(content: bytes, offset: int, size: int, order: Literal["little", "big"] = "big") -> int:
    return int.from_bytes(content[offset : offset + size], order)
