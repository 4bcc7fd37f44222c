"""Uploaded photos: format checked by content, size bounded before decoding, metadata dropped."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from PIL import Image

from mondrian.core.errors import MondrianError, PhotoError, one_line
from mondrian.core.files import write_bytes
from mondrian.core.images import check_image, read_photo, read_thumbnail, resize_to_fit
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.core.photo_header import ImageSource, PhotoHeader, read_header
from mondrian.serving.http.exposure import read_exposure
from mondrian.serving.http.histogram import Histogram, compute_histogram

Result = TypeVar("Result")
_JPEG_QUALITY = 95  # of the saved photo
_COPY_QUALITY = 90  # of a copy for the pages
_HISTOGRAM_SIDE = 1024  # pixels of the longer side of the copy that a histogram is of
_QUICK_WORK = 25_000_000  # pixels x scans up to which photos are decoded several at a time
_QUICK_SECONDS, _SLOW_SECONDS = 15, 60  # limits: 0.3 s and 5 s are usual on an idle machine
_QUICK_DECODERS = DecoderPool(4, DecoderLimits.for_pixels(_QUICK_SECONDS, _QUICK_WORK))
_UNSAFE_CHARS = re.compile(r"[^A-Za-z0-9._-]+")


class RequestRejectedError(MondrianError):
    """A request with an unusable photo or field; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    image: Image.Image  # as the model gets it
    filename: str  # uploads/<uuid>_<name>.jpg, relative to the store's folder
    sha256: str  # of the uploaded bytes
    exposure: str = ""  # the camera's settings, as `read_exposure` returns them


@dataclass(frozen=True)
class PixelLimits:
    min_pixels: int  # of the image for the model
    max_pixels: int
    max_photo_pixels: int  # a photo that declares more is rejected


class UploadStore:
    """A folder of uploaded photos, which are decoded in processes of their own.

    min_pixels, max_pixels  bounds of the image for the model
    max_megapixels          a photo that declares more is rejected

    Photos that may take long or need much memory are decoded one at a time, by another process
    than the others, so that they hold up none of these.
    """

    def __init__(self, folder: Path, min_pixels: int, max_pixels: int, max_megapixels: int) -> None:
        self.folder = folder
        self.limits = PixelLimits(min_pixels, max_pixels, max_megapixels * 1_000_000)
        slow = DecoderLimits.for_pixels(_SLOW_SECONDS, self.limits.max_photo_pixels)
        self._slow_decoders = DecoderPool(1, slow)

    def save(self, content: bytes, filename: str) -> Upload:
        """Decode, check and orient a photo, and save it as JPEG.

        Raises RequestRejectedError: 400 if empty, 415 if not a known format, 422 if unusable.
        """
        if not content:
            raise RequestRejectedError(400, "the photo is empty (0 bytes)")
        image, jpeg, exposure = self._decode(_convert_upload, BytesIO(content))
        stored_name = f"uploads/{uuid4()}_{_sanitize_name(filename)}.jpg"
        write_bytes(self.folder / stored_name, jpeg)
        return Upload(image, stored_name, sha256(content).hexdigest(), exposure)

    def load_image(self, filename: str) -> Image.Image:
        """Return a saved photo as the model gets it; RequestRejectedError if it is unreadable."""
        return self._decode(_read_model_image, self.path(filename))

    def render_jpeg(self, filename: str) -> bytes:
        """Return a saved photo in full size without metadata.

        Raises RequestRejectedError if it is missing or unreadable.
        """
        return self._decode(_render_jpeg, self.path(filename))

    def compute_histogram(self, filename: str) -> Histogram:
        """Return the histogram of a saved photo, from a copy of at most 1,024 pixels a side.

        It never waits for photos that take long; raises PhotoError if it would take long itself,
        or if the photo is missing or unreadable.
        """
        return _QUICK_DECODERS.call(_compute_histogram, self.path(filename))

    def is_slow(self, photo: bytes | str) -> bool:
        """Return whether `save` of a content, or `load_image` of a file name, may take long."""
        source = BytesIO(photo) if isinstance(photo, bytes) else self.path(photo)
        try:
            return _is_slow(read_header(source))
        except PhotoError:  # rejected at once
            return False

    def path(self, filename: str) -> Path:
        """Return the path of a saved photo; only the last part of `filename` is used."""
        return self.folder / "uploads" / Path(filename).name

    def delete(self, filename: str) -> None:
        self.path(filename).unlink(missing_ok=True)

    def _decode(
        self, function: Callable[[ImageSource, PixelLimits], Result], source: ImageSource
    ) -> Result:
        try:
            is_slow = _is_slow(read_header(source))
            decoders = self._slow_decoders if is_slow else _QUICK_DECODERS
            return decoders.call(function, source, self.limits)
        except PhotoError as error:
            status = 415 if error.reason in ("image_unreadable", "image_raw") else 422
            raise RequestRejectedError(status, f"{error.reason}: {one_line(error)}") from None


def _is_slow(header: PhotoHeader) -> bool:
    return not 0 < header.work <= _QUICK_WORK


def _convert_upload(source: ImageSource, limits: PixelLimits) -> tuple[Image.Image, bytes, str]:
    """Return the image for the model, the photo as JPEG, and the camera's settings.

    The JPEG is upright, sRGB, without metadata.
    """
    image = _read_checked(source, limits)
    jpeg = _encode_jpeg(image, _JPEG_QUALITY)
    small = resize_to_fit(image, limits.min_pixels, limits.max_pixels)
    return small, jpeg, read_exposure(source)


def _render_jpeg(source: ImageSource, limits: PixelLimits) -> bytes:
    return _encode_jpeg(read_photo(source, limits.max_photo_pixels), _COPY_QUALITY)


def _compute_histogram(path: Path) -> Histogram:
    return compute_histogram(read_thumbnail(path, _HISTOGRAM_SIDE))


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    content = BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def _read_model_image(source: ImageSource, limits: PixelLimits) -> Image.Image:
    return resize_to_fit(_read_checked(source, limits), limits.min_pixels, limits.max_pixels)


def _read_checked(source: ImageSource, limits: PixelLimits) -> Image.Image:
    image = read_photo(source, limits.max_photo_pixels)
    check_image(image)
    return image


def _sanitize_name(name: str) -> str:
    """Return the stem of a client's file name in plain characters, at most 60."""
    stem = Path(os.path.basename(name.replace("\\", "/"))).stem
    return _UNSAFE_CHARS.sub("-", stem).strip(".-_")[:60] or "photo"
