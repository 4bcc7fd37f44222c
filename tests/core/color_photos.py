"""Photos in wide color spaces, converted without a color library."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mondrian.core.icc_profile import (
    D65,
    SRGB_CURVE,
    make_rgb_profile,
)

DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
P3_PROFILE = make_rgb_profile(DISPLAY_P3, D65, SRGB_CURVE, "Display P3")
TO_P3 = np.array(
    [[0.8224620, 0.1775380, 0], [0.0331942, 0.9668058, 0], [0.0170826, 0.0723974, 0.9105199]]
)


def make_colorful(photo: Image.Image) -> Image.Image:
    """Return a photo with three times the saturation; all colors are inside sRGB."""
    hsv = np.asarray(photo.convert("HSV")).copy()
    hsv[..., 1] = np.minimum(255, hsv[..., 1].astype(int) * 3)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def to_p3(image: Image.Image) -> Image.Image:
    """Convert by the published matrices, without a color library."""
    linear = decode_srgb(np.asarray(image) / 255) @ TO_P3.T
    return Image.fromarray(np.rint(encode_srgb(linear) * 255).astype(np.uint8))


def decode_srgb(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: NDArray[Any]) -> NDArray[Any]:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Return the mean difference of two images, of 255."""
    size = min(a.size, b.size)
    arrays = (
        np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), float)
        for image in (a, b)
    )
    return float(np.abs(next(arrays) - next(arrays)).mean())


def on_white(photo: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", photo.size, "white")
    white.paste(photo, mask=alpha)
    return white
