"""The one image loader of link, train, evaluate and service.

Allowed formats only, limits checked in the header before decoding, colors converted to sRGB,
transparency on white, EXIF orientation applied and all other metadata removed, then one resize
for the model.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor, sqrt
from pathlib import Path

import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mondrian.core import tiff_pages
from mondrian.core.capture_time import read_capture_time
from mondrian.core.color import to_srgb
from mondrian.core.errors import PhotoError
from mondrian.core.photo_header import ImageSource, PhotoHeader, read_header

MAX_PHOTO_PIXELS = 200_000_000  # a 14,000 x 14,000 scan; a decompression bomb declares more
SIDE_MULTIPLE = 32  # patch 16 x merge 2: every Qwen3-VL
MIN_SIDE = 64  # pixels
MAX_ASPECT_RATIO = 20  # a model would see a narrower image as a line
PREVIEW_SIDE = 256  # minimum pixels of a preview's sides, if the photo has them
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSES = {  # how pixels of that orientation become upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# An image is blank if its tones hardly vary and nothing stands out of them.
_BLANK_STD = 3.0  # of 255: standard deviation of a color channel over 64x64 cells
_DARK_BLANK_STD = (0.8, 0.05)  # of a black image; its rise with the mean of the brightest channel
_LIGHT = 24  # of 255: what stands out of the median of a color channel, in an image of 256x256
_MIN_LIGHTS = 64  # of its 65,536 pixels
pi_heif.register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # MAX_PHOTO_PIXELS is checked here, before anything is decoded


def read_photo(source: ImageSource, max_pixels: int = MAX_PHOTO_PIXELS) -> Image.Image:
    """Decode a photo as upright RGB without metadata; small and blank ones are accepted.

    Raises PhotoError with reason image_missing, image_unreadable, image_raw or image_too_large.
    """
    with _open_image(source, max_pixels) as file:
        return _decode(file)[0]


def check_image(image: Image.Image) -> None:
    """Raise PhotoError with reason image_too_small or image_blank if there is nothing to see."""
    _check_size(image.size)
    _check_content(image.convert("RGB"))


@dataclass(frozen=True)
class Preview:
    """A photo, decoded to the last byte, as a small upright RGB image without metadata."""

    size: tuple[int, int]  # pixels, as stored
    image: Image.Image
    notes: tuple[str, ...] = ()  # what was assumed to decode it
    captured: str = ""  # when, as `read_capture_time` returns it


def read_preview(path: Path, header: PhotoHeader | None = None) -> Preview:
    """Decode a photo to a preview.

    header  of the photo, if it was read before

    Raises PhotoError as `read_photo` does, and with reason image_too_small or image_blank.
    """
    with _open_image(path, header=header) as file:
        size = file.size
        _check_size(size)
        image, notes = _decode(file, PREVIEW_SIDE)
        captured = read_capture_time(file)
    _check_content(image)
    return Preview(size, image, notes, captured)


def read_thumbnail(path: Path, side: int) -> Image.Image:
    """Return a small upright image without metadata; raises PhotoError as `read_photo` does."""
    with _open_image(path) as file:
        image, _ = _decode(file, side)
    image.thumbnail((side, side))
    return image


def _decode(file: Image.Image, min_side: int = 0) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the upright image in sRGB and notes; reduced if `min_side` is not 0."""
    if min_side:
        file.draft("RGB", (min_side, min_side))  # a JPEG is decoded at a fraction of its size
    image, notes = to_srgb(file, min_side)
    if transpose := _TRANSPOSES.get(_read_orientation(file)):
        image = image.transpose(transpose)
    return image, notes


def _read_orientation(file: Image.Image) -> int:
    """Return the EXIF orientation, or 1 if there is none that makes sense."""
    try:
        value = file.getexif().get(_ORIENTATION, 1)
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # EXIF readers raise anything on damaged data
        return 1


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        limits = f"a side needs {MIN_SIDE}, and a {MAX_ASPECT_RATIO}th of the other"
        raise PhotoError("image_too_small", f"{size[0]}x{size[1]} pixels; {limits}")


def _check_content(image: Image.Image) -> None:
    """Raise PhotoError if no color channel varies and no lights stand out.

    Cells of 64x64 average noise away. A dark image varies less: 0.8 of 255 in black, 3 from a mean
    of 44 on (landscapes at a twentieth of their light: 1.5; a lens cap with noise of 10: 0.5).
    The lights of a night are too small to change the variance: they are counted.
    """
    cells = _read_values(image, 64)
    lowest, rise = _DARK_BLANK_STD
    required_std = min(_BLANK_STD, lowest + rise * float(cells.mean(axis=0).max()))
    if cells.std(axis=0).max() >= required_std:
        return
    pixels = _read_values(image, 256)
    lights = np.abs(pixels - np.median(pixels, axis=0)).max(axis=1) > _LIGHT
    if lights.sum() < _MIN_LIGHTS:
        raise PhotoError("image_blank", "the image is blank (nearly uniform)")


def _read_values(image: Image.Image, side: int) -> NDArray[np.float32]:
    """Return the mean colors (cells, 3) of a grid of side x side cells."""
    grid = image.resize((side, side), Image.Resampling.BOX)  # of an RGB image
    return np.asarray(grid, np.float32).reshape(-1, 3)


@contextmanager
def _open_image(
    source: ImageSource, max_pixels: int = MAX_PHOTO_PIXELS, header: PhotoHeader | None = None
) -> Iterator[Image.Image]:
    """Open a photo, its header read; every error of its decoding becomes a PhotoError."""
    header = header or read_header(source)
    _check_pixels(header.size, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF: the photo is decoded or it is not
            with Image.open(_select_page(source, header), formats=(header.format,)) as file:
                _check_pixels(file.size, max_pixels)
                yield file
    except UnidentifiedImageError:
        raise PhotoError("image_unreadable", _describe_unreadable(header)) from None
    except PhotoError:
        raise
    except MemoryError:
        detail = "its decoding needs too much memory; export it smaller, as JPEG"
        raise PhotoError("image_unreadable", detail) from None
    except Exception as error:  # decoders and EXIF readers raise anything on damaged files
        cause = str(error)[:200] or type(error).__name__
        detail = f"a damaged {header.format} file ({cause}); export it again"
        raise PhotoError("image_unreadable", detail) from None


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        detail = f"{size[0]}x{size[1]} pixels declared; at most {max_pixels:,}"
        raise PhotoError("image_too_large", detail)


def _select_page(source: ImageSource, header: PhotoHeader) -> ImageSource:
    """Return a TIFF with the photo's page as its first one, which Pillow reads."""
    if header.page is None or header.page.is_first:
        return source
    content = source.getvalue() if isinstance(source, BytesIO) else source.read_bytes()
    return BytesIO(tiff_pages.move_to_front(content, header.page))


def _describe_unreadable(header: PhotoHeader) -> str:
    if header.page is not None:
        return f"{header.page.describe()}, which is not read; export it as RGB with 8 bits"
    return f"a {header.format} file with a damaged header"


def fit_size(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the size that a model sees: `min_pixels` to `max_pixels`, sides of SIDE_MULTIPLE.

    The rule of Qwen's image processor (transformers, image_processing_qwen2_vl.smart_resize), so
    that the processor leaves the image unchanged.
    """
    sides = (width, height)
    w, h = (max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in sides)
    if w * h > max_pixels:
        shrink = SIDE_MULTIPLE * sqrt(width * height / max_pixels)
        w, h = (max(SIDE_MULTIPLE, floor(side / shrink) * SIDE_MULTIPLE) for side in sides)
    elif w * h < min_pixels:
        grow = sqrt(min_pixels / (width * height)) / SIDE_MULTIPLE
        w, h = (ceil(side * grow) * SIDE_MULTIPLE for side in sides)
    return w, h


def resize_to_fit(image: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resize to `fit_size`, in the same way for training and service."""
    size = fit_size(image.width, image.height, min_pixels, max_pixels)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
