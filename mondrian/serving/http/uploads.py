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

from mondrian.core.errors import MondrianError, PhotoError
from mondrian.core.files import write_bytes
from mondrian.core.images import check, fit, read_photo

QUALITY = 95  # of the JPEG that is kept
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Refused(MondrianError):
    """A photograph that is not taken; status is the HTTP answer."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


@dataclass(frozen=True)
class Taken:
    """A photograph that was taken in.

    picture   as the model sees it
    filename  uploads/<uuid>_<name>, where it is kept
    """

    picture: Image.Image
    filename: str
    sha256: str


class Intake:
    """Takes photographs into a folder.

    least, most  pixels of what the model sees
    megapixels   that a photograph may declare
    """

    def __init__(self, folder: Path, least: int, most: int, megapixels: int) -> None:
        self.folder, self.least, self.most = folder, least, most
        self.pixels = megapixels * 1_000_000

    def take(self, content: bytes, name: str) -> Taken:
        """Decode, bound, orient and keep.

        Raises Refused: 400 for nothing, 415 for no picture, 422 for one that cannot be used.
        """
        if not content:
            raise Refused(400, "the photograph is empty (0 bytes)")
        picture = self._read(BytesIO(content))
        kept = BytesIO()
        picture.save(kept, "JPEG", quality=QUALITY)
        filename = f"uploads/{uuid4()}_{_plain(name)}.jpg"
        write_bytes(self.folder / filename, kept.getvalue())
        seen = fit(picture, self.least, self.most)
        return Taken(seen, filename, sha256(content).hexdigest())

    def again(self, filename: str) -> Image.Image:
        """A kept photograph as the model sees it.

        Raises Refused where it is gone.
        """
        return fit(self._read(self.path(filename)), self.least, self.most)

    def path(self, filename: str) -> Path:
        """Where a kept photograph lies; `filename` comes from the jobs, never from a client."""
        return self.folder / "uploads" / Path(filename).name

    def forget(self, filename: str) -> None:
        """Delete a kept photograph."""
        self.path(filename).unlink(missing_ok=True)

    def _read(self, source: Path | BytesIO) -> Image.Image:
        try:
            picture = read_photo(source, self.pixels)
            check(picture)
        except PhotoError as error:
            status = 415 if error.reason == "image_unreadable" else 422
            told = " ".join(str(error).split())  # libheif's has lines
            raise Refused(status, f"{error.reason}: {told}") from None
        return picture


def _plain(name: str) -> str:
    """A client's name for a photograph as part of ours: its last part, of plain characters."""
    last = os.path.basename(name.replace("\\", "/"))
    return _NAME.sub("-", Path(last).stem).strip(".-_")[:60] or "photo"
