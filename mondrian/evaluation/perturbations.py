"""The same photograph, altered so that no advisor would judge it otherwise."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageEnhance

SAMPLED_VARIANT = "drawn"  # the photograph as it is, another draw
_EDGE = 0.03  # of a side that a crop takes away, on each end
_LIGHTER, _QUALITY = 1.06, 75


def crop_edges(picture: Image.Image) -> Image.Image:
    """Without its outermost edge, at the same size."""
    x, y = (round(_EDGE * side) for side in picture.size)
    box = (x, y, picture.width - x, picture.height - y)
    return picture.resize(picture.size, Image.Resampling.LANCZOS, box=box)


def brighten(picture: Image.Image) -> Image.Image:
    """About a fifth of a stop lighter."""
    return ImageEnhance.Brightness(picture).enhance(_LIGHTER)


def reencode_jpeg(picture: Image.Image) -> Image.Image:
    """Through JPEG once more."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    with Image.open(file) as again:
        return again.convert("RGB")


VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped": crop_edges,
    "lighter": brighten,
    "encoded_again": reencode_jpeg,
}
