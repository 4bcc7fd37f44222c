"""The one image loader of link, train, evaluate and service.

Allowed formats only, a pixel limit before decoding, EXIF orientation applied and all other EXIF
removed, then one resize for the model.
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
from PIL import Image, ImageOps, UnidentifiedImageError

from mondrian.core.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
MAX_PHOTO_PIXELS = 200_000_000  # a 14,000 x 14,000 scan; a decompression bomb declares more
SIDE_MULTIPLE = 32  # patch 16 x merge 2: every Qwen3-VL
MIN_SIDE = 64  # pixels
MAX_ASPECT_RATIO = 20  # a model would see a narrower image as a line
PREVIEW_SIDE = 256  # minimum pixels of a preview's sides, if the photo has them
BLANK_STD = 3.0  # standard deviation of grey values (0 to 255) below which an image is blank
ImageSource = Path | BytesIO
pi_heif.register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked here, before anything is decoded


def read_photo(source: ImageSource, max_pixels: int = MAX_PHOTO_PIXELS) -> Image.Image:
    """Decode a photo as upright RGB without metadata; small and blank ones are accepted.

    Raises PhotoError with reason image_missing, image_unreadable or image_too_large.
    """
    with _open_image(source, max_pixels) as file:
        image = _to_eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    image.info.clear()
    return image


def check_image(image: Image.Image) -> None:
    """Raise PhotoError with reason image_too_small or image_blank if there is nothing to see."""
    _check_size(image.size)
    _check_content(image.convert("L"))


@dataclass(frozen=True)
class Preview:
    """A photo, decoded to the last byte, as a small upright RGB image without metadata."""

    size: tuple[int, int]  # pixels, as stored
    image: Image.Image
    notes: tuple[str, ...] = ()  # what was assumed to decode it


def read_preview(path: Path) -> Preview:
    """Decode a photo to a preview.

    Raises PhotoError as `read_photo` does, and with reason image_too_small or image_blank.
    """
    with _open_image(path) as file:
        size = file.size
        _check_size(size)
        file.draft("RGB", (PREVIEW_SIDE, PREVIEW_SIDE))
        image = _to_eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    _check_content(image.convert("L"))
    image.info.clear()
    return Preview(size, image)


def read_thumbnail(path: Path, side: int) -> Image.Image:
    """Return a small upright image without metadata; raises PhotoError as `read_photo` does."""
    with _open_image(path) as file:
        file.draft("RGB", (side, side))
        image = _to_eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    image.thumbnail((side, side))
    image.info.clear()
    return image


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        limits = f"a side needs {MIN_SIDE}, and a {MAX_ASPECT_RATIO}th of the other"
        raise PhotoError("image_too_small", f"{size[0]}x{size[1]} pixels; {limits}")


def _check_content(grey: Image.Image) -> None:
    if np.asarray(grey.resize((64, 64)), np.float32).std() < BLANK_STD:
        raise PhotoError("image_blank", "the image is blank (nearly uniform)")


@contextmanager
def _open_image(source: ImageSource, max_pixels: int = MAX_PHOTO_PIXELS) -> Iterator[Image.Image]:
    """Open a photo, its header read; every error of its decoding becomes a PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF: the photo is decoded or it is not
            _check_heif(source)
            with Image.open(source, formats=FORMATS) as file:
                if file.width * file.height > max_pixels:
                    detail = f"{file.width}x{file.height} pixels declared; at most {max_pixels:,}"
                    raise PhotoError("image_too_large", detail)
                yield file
    except FileNotFoundError:
        raise PhotoError("image_missing", "no such file") from None
    except UnidentifiedImageError:
        raise PhotoError("image_unreadable", f"not one of {', '.join(FORMATS)}") from None
    except PhotoError:
        raise
    except Exception as error:  # decoders and EXIF readers raise anything on damaged files
        raise PhotoError("image_unreadable", str(error)[:200]) from None


def _check_heif(source: ImageSource) -> None:
    """Raise PhotoError for a HEIF file that would abort the process that opens it."""
    if isinstance(source, BytesIO):
        content = source.getvalue()
    else:
        with source.open("rb") as file:
            content = file.read(12)
            content += file.read() if content[4:8] == b"ftyp" else b""
    if not is_safe_to_decode(content):
        raise PhotoError("image_unreadable", "a HEIF file whose item names are not text")


def is_safe_to_decode(content: bytes) -> bool:
    """Return False for a HEIF file with an item type or name that is not UTF-8.

    pi-heif 1.4.0 aborts the process on it, without an exception: its C code passes on NULL.
    """
    if content[4:8] != b"ftyp":
        return True
    try:
        for box in _heif_boxes(content):
            for item in _heif_items(box):
                item.decode()
    except UnicodeDecodeError:
        return False
    return True


def _heif_boxes(content: bytes) -> Iterator[bytes]:
    """Yield the content of the outermost boxes, except the pixels (ISO 14496-12, 4.2)."""
    offset = 0
    while offset + 8 <= len(content):
        size, header = int.from_bytes(content[offset : offset + 4], "big"), 8
        if size == 1:  # the size follows in 64 bits
            size, header = int.from_bytes(content[offset + 8 : offset + 16], "big"), 16
        end = offset + size if size >= header else len(content)
        if content[offset + 4 : offset + 8] != b"mdat":
            yield content[offset + header : end]
        offset = end


def _heif_items(box: bytes) -> Iterator[bytes]:
    """Yield type and names of the item of each `infe` box inside a box (ISO 14496-12, 8.11.6)."""
    offset = box.find(b"infe")
    while offset >= 0:
        size = int.from_bytes(box[max(0, offset - 4) : offset], "big")
        end = offset - 4 + size if size > 8 else len(box)
        number = 4 if box[offset + 4 : offset + 5] >= b"\3" else 2
        yield box[offset + 8 + number + 2 : end]
        offset = box.find(b"infe", offset + 4)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits: Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))


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
