"""The one way a picture enters, for link, train, evaluate and service.

Allow-listed formats, a bound on pixels before decoding, EXIF orientation applied and the rest of
EXIF dropped, then one size for the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import ceil, floor, sqrt
from pathlib import Path

import numpy as np
import pi_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from mondrian.core.errors import PhotoError
from mondrian.core.heif import is_safe_to_decode

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
MAX_PIXELS = 200_000_000  # a 14,000 x 14,000 scan; a bomb declares more
SIDE_MULTIPLE = 32  # patch 16 x merge 2: every Qwen3-VL
MIN_SIDE = 64  # anything smaller is no photograph
MAX_RATIO = 20  # of the sides; a model would see a line of a narrower picture
PREVIEW_SIDE = 256  # pixels that the sides of a glance have at least, where the photograph has them
BLANK_SPREAD = 3.0  # standard deviation of grey, of 255, below which nothing is to be seen
ImageSource = Path | BytesIO
pi_heif.register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked here, before anything is decoded


def read_photo(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open, orient and decode as RGB, without metadata, whatever it shows and however small it is.

    max_pixels  pixels that its header may declare

    Raises PhotoError with reason image_missing, image_unreadable or image_too_large.
    """
    with _open_image(source, max_pixels) as file:
        picture = _to_eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    picture.info.clear()
    return picture


def check_image(picture: Image.Image) -> None:
    """Raise PhotoError with reason image_too_small or image_blank where nothing is to be seen."""
    _check_size(picture.size)
    _check_content(picture.convert("L"))


def read_preview(path: Path) -> tuple[tuple[int, int], Image.Image]:
    """The size of a photograph and a small grey picture of it, oriented.

    A JPEG is decoded at a fraction of its size, to its last byte all the same.

    Raises PhotoError as `read_photo` does, and with reason image_too_small or image_blank.
    """
    with _open_image(path) as file:
        size = file.size
        _check_size(size)
        file.draft("L", (PREVIEW_SIDE, PREVIEW_SIDE))
        grey = _to_eight_bits(ImageOps.exif_transpose(file)).convert("L")
    _check_content(grey)
    return size, grey


def read_thumbnail(path: Path, side: int) -> Image.Image:
    """A picture for a page, of at most `side` pixels, oriented and without metadata.

    Raises PhotoError as `read_photo` does.
    """
    with _open_image(path) as file:
        file.draft("RGB", (side, side))
        picture = _to_eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    picture.thumbnail((side, side))
    picture.info.clear()
    return picture


def _check_size(size: tuple[int, int]) -> None:
    if max(size) > MAX_RATIO * min(size):
        message = f"{size[0]}x{size[1]} pixels; one side is over {MAX_RATIO} times the other"
        raise PhotoError("image_too_small", message)
    if min(size) < MIN_SIDE:
        message = f"{size[0]}x{size[1]} pixels; least {MIN_SIDE}"
        raise PhotoError("image_too_small", message)


def _check_content(grey: Image.Image) -> None:
    if np.asarray(grey.resize((64, 64)), np.float32).std() < BLANK_SPREAD:
        raise PhotoError("image_blank", "one even tone: nothing is to be seen")


@contextmanager
def _open_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The file with its header read, and every fault of its decoding named."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF and the like: it decodes or it does not
            _check_heif(source)
            with Image.open(source, formats=FORMATS) as file:
                if file.width * file.height > max_pixels:
                    size = f"{file.width}x{file.height}"
                    raise PhotoError(
                        "image_too_large", f"{size} pixels declared; most {max_pixels:,}"
                    )
                yield file
    except FileNotFoundError:
        raise PhotoError("image_missing", "no such file") from None
    except UnidentifiedImageError:
        raise PhotoError("image_unreadable", f"none of {', '.join(FORMATS)}") from None
    except PhotoError:
        raise
    except Exception as error:  # decoders and EXIF readers raise anything on damaged files
        raise PhotoError("image_unreadable", str(error)[:200]) from None


def _check_heif(source: ImageSource) -> None:
    """Raise PhotoError for a HEIF file that would end the process of its reader."""
    if isinstance(source, BytesIO):
        content = source.getvalue()
    else:
        with source.open("rb") as file:
            start = file.read(12)
            content = start + file.read() if start[4:8] == b"ftyp" else start
    if not is_safe_to_decode(content):
        raise PhotoError("image_unreadable", "a HEIF file whose items have no readable names")


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8: Pillow's own conversion would clip it to white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, np.float32) / 257).clip(0, 255).astype(np.uint8))


def fit_size(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size a model sees: sides multiples of MULTIPLE, `min_pixels` to `max_pixels` pixels in
    all.

    The rule of Qwen's image processor (transformers, image_processing_qwen2_vl.smart_resize), so
    that the processor leaves the picture as it is.
    """
    w, h = (
        max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in (width, height)
    )
    if w * h > max_pixels:
        shrink = SIDE_MULTIPLE * sqrt(width * height / max_pixels)
        w, h = (
            max(SIDE_MULTIPLE, floor(side / shrink) * SIDE_MULTIPLE) for side in (width, height)
        )
    elif w * h < min_pixels:
        grow = sqrt(min_pixels / (width * height)) / SIDE_MULTIPLE
        w, h = (ceil(side * grow) * SIDE_MULTIPLE for side in (width, height))
    return w, h


def resize_to_fit(picture: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resize to `fit_size`; the one resampling of training and service."""
    size = fit_size(picture.width, picture.height, min_pixels, max_pixels)
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
