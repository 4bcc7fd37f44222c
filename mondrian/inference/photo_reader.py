"""Decode photos ahead of the model, in processes with limits, and keep a preview of each."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image

from mondrian.core.errors import PhotoError
from mondrian.core.files import write_bytes
from mondrian.core.images import MAX_PHOTO_PIXELS, check_image, read_photo, resize_to_fit
from mondrian.core.params import ImageParams
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.inference.photo_files import PhotoFile

MAX_PREVIEW_BYTES = 48_000  # as JPEG: 200 previews as data URLs are below 13 MB
_PREVIEWS = ((800, 80), (800, 65), (800, 50), (640, 50), (480, 50), (320, 40))  # side, quality
_DECODE_SECONDS = 60  # at most, for one photo
_DECODERS = min(4, os.cpu_count() or 1)
_AHEAD = 16  # photos that are decoded before the model needs them


def decode_photo(path: Path, preview: Path | None, min_pixels: int, max_pixels: int) -> Image.Image:
    """Return a photo as the model sees it, as in the service; write a preview if it has a path.

    Raises PhotoError.
    """
    photo = read_photo(path)
    check_image(photo)
    if preview is not None:
        with suppress(OSError):  # a full disk is no fault of the photo; the page makes it again
            write_bytes(preview, encode_preview(photo))
    return resize_to_fit(photo, min_pixels, max_pixels)


def encode_preview(photo: Image.Image) -> bytes:
    """Return a JPEG of at most MAX_PREVIEW_BYTES, 800 pixels wide or high if that suffices."""
    for side, quality in _PREVIEWS:
        small, jpeg = photo.copy(), BytesIO()
        small.thumbnail((side, side), reducing_gap=2.0)
        small.save(jpeg, "JPEG", quality=quality, optimize=True, progressive=True)
        if jpeg.tell() <= MAX_PREVIEW_BYTES:
            break
    return jpeg.getvalue()


class PreviewFolder:
    """Previews by the content of their photos, so that a page needs no photo decoded again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, photo: PhotoFile) -> Path:
        return self.folder / f"{photo.sha256[:32]}.jpg"

    def read(self, photo: PhotoFile) -> bytes:
        """Return a preview; it is made again if its file was removed, or is empty if it cannot."""
        path = self.path(photo)
        try:
            if not path.is_file():
                write_bytes(path, encode_preview(read_photo(photo.path)))
        except PhotoError:
            return b""
        return path.read_bytes()


def decode_ahead(
    photos: Sequence[PhotoFile], previews: PreviewFolder | None, image_params: ImageParams
) -> Iterator[tuple[PhotoFile, Image.Image | PhotoError]]:
    """Yield photos in order with their image, or with the reason why they have none."""
    limits = DecoderLimits.for_pixels(_DECODE_SECONDS, MAX_PHOTO_PIXELS)
    bounds = (image_params.min_pixels, image_params.max_pixels)
    pending: deque[tuple[PhotoFile, Future[Image.Image]]] = deque()
    with closing(DecoderPool(_DECODERS, limits)) as decoders, ThreadPoolExecutor(_DECODERS) as pool:
        for i in range(len(photos) + _AHEAD):
            if i < len(photos):
                photo = photos[i]
                preview = previews.path(photo) if previews else None
                decode = partial(decoders.call, decode_photo, photo.path, preview, *bounds)
                pending.append((photo, pool.submit(decode)))
            if i >= _AHEAD:
                photo, future = pending.popleft()
                try:
                    yield photo, future.result()
                except PhotoError as error:
                    yield photo, error
