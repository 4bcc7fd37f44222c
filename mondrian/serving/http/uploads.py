"""Uploaded photos: format checked by content, size bounded before decoding, metadata dropped."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from shutil import disk_usage
from typing import Any, TypeVar
from uuid import uuid4

from PIL import Image

from mondrian.core.errors import DataError, MondrianError, PhotoError, one_line
from mondrian.core.files import write_bytes
from mondrian.core.images import check_image, read_photo, read_thumbnail, resize_to_fit
from mondrian.core.photo_decoder import DecoderLimits, DecoderPool
from mondrian.core.photo_header import ImageSource, read_header
from mondrian.serving.http.exposure import read_exposure
from mondrian.serving.http.histogram import Histogram, compute_histogram

Result = TypeVar("Result")
_JPEG_QUALITY = 95  # of the saved photo
_COPY_QUALITY = 90  # of a copy for the pages
_HISTOGRAM_SIDE = 1024  # pixels of the longer side of the copy that a histogram is of
_QUICK_WORK = 25_000_000  # pixels x scans up to which photos are decoded several at a time
_QUICK_SECONDS, _SLOW_SECONDS = 15, 60  # limits: 0.3 s and 5 s are usual on an idle machine
QUICK_DECODERS = 4  # photos that are decoded at a time
_QUICK_DECODERS = DecoderPool(QUICK_DECODERS, DecoderLimits.for_pixels(_QUICK_SECONDS, _QUICK_WORK))
_MIN_FREE_BYTES = 200_000_000  # of the disk, to accept uploads
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

    def check_writable(self) -> None:
        """Create the folder. Raises DataError if no file can be written there."""
        probe = self.path(f".probe-{uuid4()}")
        try:
            write_bytes(probe, b"")
            probe.unlink()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(
                f"--data {self.folder} cannot be written: {reason}; "
                "give a folder of this user on a disk that is not read-only"
            ) from None

    def find_fault(self) -> str:
        """Return why no upload can be saved now, or an empty text."""
        try:
            free_bytes = disk_usage(self.folder).free
        except OSError as error:
            return f"{self.folder}: {error.strerror}"
        if not os.access(self.folder, os.W_OK | os.X_OK):
            return f"{self.folder} cannot be written"
        if free_bytes < _MIN_FREE_BYTES:
            return f"{free_bytes // 10**6} MB free; at least {_MIN_FREE_BYTES // 10**6} are needed"
        return ""

    def close(self) -> None:
        """End all decoders, also those at work; their photos are rejected."""
        for decoders in (_QUICK_DECODERS, self._slow_decoders):
            decoders.close()

    def save(self, content: bytes, filename: str, is_slow: bool = False) -> Upload:
        """Decode, check and orient a photo, and save it as JPEG.

        is_slow  what `is_slow` returns for it

        Raises RequestRejectedError: 400 if empty, 415 if not a known format, 422 if unusable.
        """
        _check_not_empty(content)
        decoders = self._decoders(is_slow)
        source = BytesIO(content)
        image, jpeg, exposure = _decode(decoders, _convert_upload, source, self.limits)
        stored_name = f"uploads/{uuid4()}_{_sanitize_name(filename)}.jpg"
        write_bytes(self.folder / stored_name, jpeg)
        return Upload(image, stored_name, sha256(content).hexdigest(), exposure)

    def load_image(self, filename: str, is_slow: bool = False) -> Image.Image:
        """Return a saved photo as the model gets it; RequestRejectedError if it is unreadable."""
        path = self.path(filename)
        return _decode(self._decoders(is_slow), _read_model_image, path, self.limits)

    def find_full_copy(self, filename: str) -> Path | None:
        """Return the copy of another program's photo that `save_full_copy` made, if it is current.

        Raises RequestRejectedError if the photo is missing.
        """
        copy = self._full_copy_path(filename)
        is_current = copy.exists() and copy.stat().st_mtime_ns == self._changed_at(filename)
        return copy if is_current else None

    def save_full_copy(self, filename: str, is_slow: bool = False) -> Path:
        """Save another program's photo in full size without metadata; return the copy's path.

        Raises RequestRejectedError if it is missing or unreadable.
        """
        changed_at, copy = self._changed_at(filename), self._full_copy_path(filename)
        photo = self.path(filename)
        write_bytes(copy, _decode(self._decoders(is_slow), _render_jpeg, photo, self.limits))
        os.utime(copy, ns=(changed_at, changed_at))
        return copy

    def compute_histogram(self, filename: str) -> Histogram:
        """Return the histogram of a saved photo, from a copy of at most 1,024 pixels a side.

        It never waits for photos that take long; raises PhotoError if it would take long itself,
        or if the photo is missing or unreadable.
        """
        return _QUICK_DECODERS.call(_compute_histogram, self.path(filename))

    def is_slow(self, photo: bytes | str) -> bool:
        """Return whether `save` of a content, or `load_image` of a file name, may take long.

        Raises RequestRejectedError as these do, if its header suffices.
        """
        if isinstance(photo, bytes):
            _check_not_empty(photo)
        source = BytesIO(photo) if isinstance(photo, bytes) else self.path(photo)
        header = _decode(_QUICK_DECODERS, read_header, source)
        return not 0 < header.work <= _QUICK_WORK

    def path(self, filename: str) -> Path:
        """Return the path of a saved photo; only the last part of `filename` is used."""
        return self.folder / "uploads" / Path(filename).name

    def delete(self, filename: str) -> None:
        self.path(filename).unlink(missing_ok=True)
        self._full_copy_path(filename).unlink(missing_ok=True)

    def _full_copy_path(self, filename: str) -> Path:
        name = sha256(self.path(filename).name.encode("utf-8", "replace")).hexdigest()
        return self.folder / "full" / f"{name}.jpg"

    def _changed_at(self, filename: str) -> int:
        try:
            return self.path(filename).stat().st_mtime_ns
        except (OSError, ValueError):
            raise RequestRejectedError(422, "image_unreadable: it is missing") from None

    def _decoders(self, is_slow: bool) -> DecoderPool:
        return self._slow_decoders if is_slow else _QUICK_DECODERS


def _check_not_empty(content: bytes) -> None:
    if not content:
        raise RequestRejectedError(400, "the photo is empty (0 bytes)")


def _decode(decoders: DecoderPool, function: Callable[..., Result], *args: Any) -> Result:
    """Return function(*args), called by a decoder; also reading a header can take long."""
    try:
        return decoders.call(function, *args)
    except PhotoError as error:
        status = 415 if error.reason in ("image_unreadable", "image_raw") else 422
        raise RequestRejectedError(status, f"{error.reason}: {one_line(error)}") from None


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
