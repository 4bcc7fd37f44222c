"""What decoder processes run in tests in place of the functions of the library."""

import time
from pathlib import Path

from PIL import Image

from mondrian.core import images
from mondrian.core.images import Preview
from mondrian.core.photo_header import ImageSource, PhotoHeader, read_header
from mondrian.serving.http.uploads import PixelLimits, _convert_upload

STUCK_SIDE = 222  # an upload of this width is never decoded
_read_preview = images.read_preview


def get_stuck(source: ImageSource, limits: PixelLimits) -> tuple[Image.Image, bytes, str]:
    if read_header(source).size[0] == STUCK_SIDE:
        time.sleep(3600)
    return _convert_upload(source, limits)


def get_stuck_on_heif(path: Path, header: PhotoHeader | None = None) -> Preview:
    if (header or read_header(path)).format == "HEIF":
        time.sleep(3600)
    return _read_preview(path, header)
