"""JPEGs of a folder's photos for the pages, decoded in processes with limits.

A thread decodes each photo once, so that it is known which ones cannot be read.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from mondrian.core.errors import PhotoError, one_line
from mondrian.core.images import MAX_PHOTO_PIXELS, read_photo, read_preview
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.inference.photo_files import PhotoFile

SIDES = {"page": 2000, "full": 8192}  # pixels of the longer side, at most
_THUMBNAIL_SIDE = 320
_DECODE_SECONDS = 60
_DECODERS = 2  # one for the thread, one for the photo on the page
_KEPT_IMAGES = 8


def render_photo(path: Path, side: int) -> bytes:
    """Return a photo as upright JPEG in sRGB. Raises PhotoError."""
    photo, jpeg = read_photo(path), BytesIO()
    photo.thumbnail((side, side), reducing_gap=3.0)
    photo.save(jpeg, "JPEG", quality=90)
    return jpeg.getvalue()


def render_thumbnail(path: Path) -> bytes:
    """Return a small JPEG. Raises PhotoError, also for photos that `link` rejects."""
    image, jpeg = read_preview(path).image, BytesIO()
    image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    image.save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


class PhotoImages:
    """The images of photos; `faults` says by sha256 why a photo cannot be critiqued."""

    def __init__(self, photos: Sequence[PhotoFile]) -> None:
        self.faults: dict[str, str] = {}
        self._thumbnails: dict[str, bytes] = {}
        limits = DecoderLimits.for_pixels(_DECODE_SECONDS, MAX_PHOTO_PIXELS)
        self._decoders = DecoderPool(_DECODERS, limits)
        self._render = lru_cache(_KEPT_IMAGES)(self._decode)
        self._thread = ThreadPoolExecutor(1, "photos")
        for photo in photos:
            self._thread.submit(self._check, photo)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()

    def render(self, photo: PhotoFile, size: str) -> bytes:
        """Return a photo in one of SIDES. Raises PhotoError."""
        return self._render(photo.path, SIDES[size])

    def thumbnail(self, photo: PhotoFile) -> bytes:
        """Return a small JPEG, empty if the photo has not been decoded yet or cannot be."""
        return self._thumbnails.get(photo.sha256, b"")

    def _decode(self, path: Path, side: int) -> bytes:
        return self._decoders.call(render_photo, path, side)

    def _check(self, photo: PhotoFile) -> None:
        try:
            thumbnail = self._decoders.call(render_thumbnail, photo.path)
            self._thumbnails[photo.sha256] = thumbnail
        except PhotoError as error:
            self.faults[photo.sha256] = f"{error.reason}: {one_line(error)}"
