"""The pages of a TIFF file: which one is the photo, whether it is a camera's raw file.

TIFF 6.0, Adobe's TIFF Technical Note 1 (SubIFDs) and the DNG specification.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from mondrian.core.errors import PhotoError

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT = 254, 255, 256, 257
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 258, 259, 262, 277
TILE_WIDTH, TILE_HEIGHT, SUB_PAGES, SAMPLE_FORMAT, DNG_VERSION = 322, 323, 330, 339, 50706
_TAGS = frozenset(
    (SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES)
    + (TILE_WIDTH, TILE_HEIGHT, SUB_PAGES, SAMPLE_FORMAT, DNG_VERSION)
)
_MAX_PAGES = 256  # read; a file may link its pages in a circle
_MAX_TAGS = 4096  # of a page
_MAX_VALUES = 64  # of a tag
_TYPE_BYTES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # the types of whole numbers
_RAW_PHOTOMETRIC = (32803, 34892)  # a color filter array; linear raw
# Compressions of raw files only: Sony, Samsung, Nikon, Kodak, Pentax
_RAW_COMPRESSION = (32767, 32770, 34713, 65000, 65535)
_NOT_AN_IMAGE = 0b101  # bits of NewSubfileType: a reduced image, a transparency mask
_OLD_REDUCED = 2  # a value of SubfileType
_SIGNED, _FLOAT = 2, 3  # values of SampleFormat
_BIG_TIFF = 43


@dataclass(frozen=True)
class TiffPage:
    """A page; tags that are absent or damaged are left out."""

    offset: int  # of its directory in the file
    is_first: bool
    tags: dict[int, tuple[int, ...]]

    def tag(self, number: int, default: int = 0) -> int:
        return self.tags.get(number, (default,))[0]

    @property
    def is_full(self) -> bool:
        """False for a preview or a mask of another page."""
        return not (self.tag(SUBFILE) & _NOT_AN_IMAGE or self.tag(OLD_SUBFILE) == _OLD_REDUCED)

    @property
    def is_raw(self) -> bool:
        return (
            DNG_VERSION in self.tags
            or self.tag(PHOTOMETRIC) in _RAW_PHOTOMETRIC
            or self.tag(COMPRESSION) in _RAW_COMPRESSION
        )

    @property
    def size(self) -> tuple[int, int]:
        """The size to allocate: that of the page, or of one tile if that is larger."""
        sizes = ((WIDTH, HEIGHT), (TILE_WIDTH, TILE_HEIGHT))
        return max(((self.tag(w), self.tag(h)) for w, h in sizes), key=lambda s: s[0] * s[1])

    def describe(self) -> str:
        bits = self.tag(BITS, 1)
        kind = {_SIGNED: "signed ", _FLOAT: "floating-point "}.get(self.tag(SAMPLE_FORMAT), "")
        return (
            f"a TIFF of {self.tag(SAMPLES, 1)} {kind}samples of {bits} bits "
            f"(photometric {self.tag(PHOTOMETRIC)}, compression {self.tag(COMPRESSION, 1)})"
        )


def read_page(file: BinaryIO) -> TiffPage:
    """Return the page that is the photo: the first full one, or the largest if all are previews.

    Raises PhotoError with reason image_raw, or image_unreadable if the tones have no known scale.
    """
    pages = list(_read_pages(file))
    if any(page.is_raw for page in pages):
        name = "DNG" if any(DNG_VERSION in page.tags for page in pages) else "raw"
        raise PhotoError("image_raw", f"a camera's {name} file; export it as JPEG or TIFF")
    if not pages:
        raise PhotoError("image_unreadable", "a TIFF without a readable page; export it again")
    full = next((page for page in pages if page.is_full), None)
    page = full or max(pages, key=lambda page: page.size[0] * page.size[1])
    if page.tag(SAMPLE_FORMAT) in (_SIGNED, _FLOAT) or page.tag(BITS) > 16:
        detail = f"{page.describe()}, whose white is not defined; export it with 8 or 16 bits"
        raise PhotoError("image_unreadable", detail)
    return page


def move_to_front(content: bytes, page: TiffPage) -> bytes:
    """Return the file with this page as its first one."""
    layout = _Layout(content)
    number = page.offset.to_bytes(layout.number, layout.order)
    return content[: layout.start] + number + content[layout.start + layout.number :]


class _Layout:
    """Byte order and sizes of a TIFF (32-bit offsets) or BigTIFF (64-bit), by its header."""

    def __init__(self, header: bytes) -> None:
        self.order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
        is_big = _BIG_TIFF in header[2:4]
        self.number = 8 if is_big else 4  # bytes of an offset
        self.start = 8 if is_big else 4  # offset of the first page's offset
        self.count = 8 if is_big else 2  # bytes of the number of tags
        self.entry = 20 if is_big else 12  # bytes of a tag

    def parse(self, content: bytes) -> int:
        return int.from_bytes(content, self.order)


def _read_pages(file: BinaryIO) -> Iterator[TiffPage]:
    """Yield the pages in the order of the file, the sub-pages of a page after it."""
    file.seek(0)
    header = file.read(16)
    layout = _Layout(header)
    waiting = [layout.parse(header[layout.start : layout.start + layout.number])]
    visited = {0}
    while waiting and len(visited) <= _MAX_PAGES:
        offset = waiting.pop(0)
        if offset in visited:
            continue
        visited.add(offset)
        file.seek(offset)
        num_tags = layout.parse(file.read(layout.count))
        if not 0 < num_tags <= _MAX_TAGS:
            continue
        size = num_tags * layout.entry
        directory = file.read(size + layout.number)
        tags = dict(_read_tags(file, layout, directory[:size]))
        yield TiffPage(offset, len(visited) == 2, tags)
        waiting = [*tags.get(SUB_PAGES, ()), *waiting, layout.parse(directory[size:])]


def _read_tags(
    file: BinaryIO, layout: _Layout, directory: bytes
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield number and values of each tag that holds whole numbers."""
    for start in range(0, len(directory) - layout.entry + 1, layout.entry):
        entry = directory[start : start + layout.entry]
        value_bytes = _TYPE_BYTES.get(layout.parse(entry[2:4]), 0)
        number, count = layout.parse(entry[:2]), layout.parse(entry[4 : 4 + layout.number])
        if number not in _TAGS or not value_bytes or not 0 < count <= _MAX_VALUES:
            continue
        content = entry[4 + layout.number :]
        if value_bytes * count > layout.number:
            file.seek(layout.parse(content))
            content = file.read(value_bytes * count)
        values = (content[i * value_bytes : (i + 1) * value_bytes] for i in range(count))
        yield number, tuple(map(layout.parse, values))
