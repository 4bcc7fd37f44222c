"""Uploaded photos: format checked by content, size bounded before decoding, metadata dropped."""

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from PIL import Image

from mondrian.core.errors import MondrianError, PhotoError, one_line
from mondrian.core.files import write_bytes
from mondrian.core.images import check_image, read_photo, resize_to_fit

_JPEG_QUALITY = 95  # of the saved photo
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


class UploadStore:
    """A folder of uploaded photos.

    min_pixels, max_pixels  bounds of the image for the model
    max_megapixels          a photo that declares more is rejected
    """

    def __init__(self, folder: Path, min_pixels: int, max_pixels: int, max_megapixels: int) -> None:
        self.folder, self.min_pixels, self.max_pixels = folder, min_pixels, max_pixels
        self.max_photo_pixels = max_megapixels * 1_000_000

    def save(self, content: bytes, filename: str) -> Upload:
        """Decode, check and orient a photo, and save it as JPEG.

        Raises RequestRejectedError: 400 if empty, 415 if not a known format, 422 if unusable.
        """
        if not content:
            raise RequestRejectedError(400, "the photo is empty (0 bytes)")
        image = self._read(BytesIO(content))
        jpeg = BytesIO()
        image.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
        stored_name = f"uploads/{uuid4()}_{_sanitize_name(filename)}.jpg"
        write_bytes(self.folder / stored_name, jpeg.getvalue())
        model_image = resize_to_fit(image, self.min_pixels, self.max_pixels)
        return Upload(model_image, stored_name, sha256(content).hexdigest())

    def load_image(self, filename: str) -> Image.Image:
        """Return a saved photo as the model gets it; RequestRejectedError if it is unreadable."""
        return resize_to_fit(self._read(self.path(filename)), self.min_pixels, self.max_pixels)

    def path(self, filename: str) -> Path:
        """Return the path of a saved photo; only the last part of `filename` is used."""
        return self.folder / "uploads" / Path(filename).name

    def delete(self, filename: str) -> None:
        self.path(filename).unlink(missing_ok=True)

    def _read(self, source: Path | BytesIO) -> Image.Image:
        try:
            image = read_photo(source, self.max_photo_pixels)
            check_image(image)
        except PhotoError as error:
            status = 415 if error.reason == "image_unreadable" else 422
            raise RequestRejectedError(status, f"{error.reason}: {one_line(error)}") from None
        return image


def _sanitize_name(name: str) -> str:
    """Return the stem of a client's file name in plain characters, at most 60."""
    stem = Path(os.path.basename(name.replace("\\", "/"))).stem
    return _UNSAFE_CHARS.sub("-", stem).strip(".-_")[:60] or "photo"
