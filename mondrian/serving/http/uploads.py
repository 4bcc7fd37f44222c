"""A photograph from outside: known by content, bounded before decoding, kept without metadata."""

from __future__ import annotations

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

JPEG_QUALITY = 95  # of the JPEG that is kept
_UNSAFE_CHARS = re.compile(r"[^A-Za-z0-9._-]+")


class RequestRejected(MondrianError):
    """A photograph that is not taken; status is the HTTP answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A photograph that was taken in.

    image   as the model sees it
    filename  uploads/<uuid>_<name>, where it is kept
    """

    image: Image.Image
    filename: str
    sha256: str


class UploadStore:
    """Takes photographs into a folder.

    min_pixels, max_pixels  pixels of what the model sees
    megapixels   that a photograph may declare
    """

    def __init__(self, folder: Path, min_pixels: int, max_pixels: int, megapixels: int) -> None:
        self.folder, self.min_pixels, self.max_pixels = folder, min_pixels, max_pixels
        self.pixels = megapixels * 1_000_000

    def save(self, content: bytes, name: str) -> Upload:
        """Decode, bound, orient and keep.

        Raises Refused: 400 for nothing, 415 for no picture, 422 for one that cannot be used.
        """
        if not content:
            raise RequestRejected(400, "the photograph is empty (0 bytes)")
        picture = self._read(BytesIO(content))
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        filename = f"uploads/{uuid4()}_{_sanitize_name(name)}.jpg"
        write_bytes(self.folder / filename, buffer.getvalue())
        model_image = resize_to_fit(picture, self.min_pixels, self.max_pixels)
        return Upload(model_image, filename, sha256(content).hexdigest())

    def load_image(self, filename: str) -> Image.Image:
        """A kept photograph as the model sees it.

        Raises Refused where it is gone.
        """
        return resize_to_fit(self._read(self.path(filename)), self.min_pixels, self.max_pixels)

    def path(self, filename: str) -> Path:
        """Where a kept photograph lies; `filename` comes from the jobs, never from a client."""
        return self.folder / "uploads" / Path(filename).name

    def delete(self, filename: str) -> None:
        """Delete a kept photograph."""
        self.path(filename).unlink(missing_ok=True)

    def _read(self, source: Path | BytesIO) -> Image.Image:
        try:
            picture = read_photo(source, self.pixels)
            check_image(picture)
        except PhotoError as error:
            status = 415 if error.reason == "image_unreadable" else 422
            message = one_line(error)  # libheif's has lines
            raise RequestRejected(status, f"{error.reason}: {message}") from None
        return picture


def _sanitize_name(name: str) -> str:
    """A client's name for a photograph as part of ours: its last part, of plain characters."""
    last = os.path.basename(name.replace("\\", "/"))
    return _UNSAFE_CHARS.sub("-", Path(last).stem).strip(".-_")[:60] or "photo"
