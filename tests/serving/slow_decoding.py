"""What a decoder process runs in tests in place of the upload's own function."""

import time

from PIL import Image

from mondrian.core.photo_header import ImageSource, read_header
from mondrian.serving.http.uploads import PixelLimits, _convert_upload

STUCK_SIDE = 222  # a photo of this width is never decoded


def get_stuck(source: ImageSource, limits: PixelLimits) -> tuple[Image.Image, bytes]:
    if read_header(source).size[0] == STUCK_SIDE:
        time.sleep(3600)
    return _convert_upload(source, limits)
