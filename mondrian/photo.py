"""The one way a picture enters, for link, train, evaluate and service.

Allow-listed formats, a bound on pixels before decoding, EXIF orientation applied and the rest of
EXIF dropped, then one size for the model. Also the 64-bit perceptual hash that finds one photograph
under many names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from math import ceil, floor, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mondrian.errors import PhotoError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
MAX_PIXELS = 200_000_000  # a 14,000 x 14,000 scan; a bomb declares more
MULTIPLE = 32  # patch 16 x merge 2: every Qwen3-VL
MIN_SIDE = 64  # anything smaller is no photograph
BLANK_SPREAD = 3.0  # standard deviation of grey, of 255, below which nothing is to be seen


def open_photo(path: Path) -> Image.Image:
    """Open, orient and decode as RGB, without metadata.

    Raises PhotoError with reason image_missing, image_unreadable, image_too_large, image_too_small
    or image_blank.
    """
    picture = read_photo(path)
    if min(picture.size) < MIN_SIDE:
        size = f"{picture.width}x{picture.height}"
        raise PhotoError("image_too_small", f"{path.name} is {size} pixels; least {MIN_SIDE}")
    thumbnail = np.asarray(picture.convert("L").resize((64, 64)), np.float32)
    if thumbnail.std() < BLANK_SPREAD:
        raise PhotoError("image_blank", f"{path.name} shows nothing: one even tone")
    return picture


def read_photo(path: Path) -> Image.Image:
    """Open, orient and decode as RGB, whatever it shows and however small it is.

    Raises PhotoError with reason image_missing, image_unreadable or image_too_large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are checked below
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    size = f"{file.width}x{file.height}"
                    raise PhotoError("image_too_large", f"{path.name} declares {size} pixels")
                return _eight_bits(ImageOps.exif_transpose(file)).convert("RGB")
    except FileNotFoundError:
        raise PhotoError("image_missing", f"no file {path.name}") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise PhotoError("image_unreadable", f"{path.name} is none of {kinds}") from None
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError("image_too_large", f"{path.name}: {error}") from None
    except Exception as error:  # decoders and EXIF readers raise anything on damaged files
        raise PhotoError("image_unreadable", f"{path.name}: {error}") from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8: Pillow's own conversion would clip it to white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, np.float32) / 257).clip(0, 255).astype(np.uint8))


def fit_size(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """The size a model sees: sides multiples of MULTIPLE, `least` to `most` pixels in all.

    The rule of Qwen's image processor (transformers, image_processing_qwen2_vl.smart_resize), so
    that the processor leaves the picture as it is.
    """
    w, h = (max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE) for side in (width, height))
    if w * h > most:
        shrink = MULTIPLE * sqrt(width * height / most)
        w, h = (max(MULTIPLE, floor(side / shrink) * MULTIPLE) for side in (width, height))
    elif w * h < least:
        grow = sqrt(least / (width * height)) / MULTIPLE
        w, h = (ceil(side * grow) * MULTIPLE for side in (width, height))
    return w, h


def fit(picture: Image.Image, least: int, most: int) -> Image.Image:
    """Resize to `fit_size`; the one resampling of training and service."""
    size = fit_size(picture.width, picture.height, least, most)
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def phash(picture: Image.Image) -> int:
    """64-bit perceptual hash: signs of the 8 x 8 lowest DCT terms of a 32 x 32 grey thumbnail.

    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section
    3.2.1, with the median of the terms as threshold.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    terms = (_dct() @ grey @ _dct().T)[:8, :8].ravel()
    bits = terms > np.median(terms[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def phashes(picture: Image.Image) -> tuple[int, int, int, int]:
    """phash of the four rotations: thumbnails may have lost their orientation."""
    turned = (picture, *(picture.transpose(Image.Transpose(turn)) for turn in (2, 3, 4)))
    first, second, third, fourth = (phash(p) for p in turned)
    return first, second, third, fourth


def distance(a: int, b: int) -> int:
    """Hamming distance of two hashes, 0 to 64."""
    return (a ^ b).bit_count()


def same_pictures(hashes: Sequence[tuple[int, ...]], bits: int) -> list[int]:
    """A group number for each photograph; those within `bits` in any rotation share one.

    hashes  phashes() of each photograph, the upright one first
    """
    group = list(range(len(hashes)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    upright = np.array([h[0] for h in hashes], np.uint64)
    for i, turned in enumerate(hashes):
        for turn in turned:
            near = np.bitwise_count(upright[i + 1 :] ^ np.uint64(turn)) <= bits
            for j in np.flatnonzero(near) + i + 1:
                group[root(int(j))] = root(i)
    return [root(i) for i in range(len(hashes))]


@cache
def _dct(size: int = 32) -> NDArray[Any]:
    k = np.arange(size)
    return np.cos(np.pi * (k[None] + 0.5) * k[:, None] / size)
