"""The histogram of a photo: luminance and the three color channels, as points of an SVG."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 256, 80  # of the SVG: one unit per level
CHANNELS = ("luminance", "red", "green", "blue")
_CLIPPED = (1, 254)  # levels up to and from which a channel is clipped; JPEG changes them by one
_MARKED_SHARE = 0.001  # of clipped pixels from which the mark is lit


@dataclass(frozen=True)
class Histogram:
    """Outlines of CHANNELS, and the shares of pixels with a clipped channel, from 0 to 1."""

    outlines: tuple[str, ...]
    shadows: float
    highlights: float

    @property
    def channels(self) -> list[tuple[str, str]]:
        """Return the name and outline of each channel."""
        return list(zip(CHANNELS, self.outlines, strict=True))

    @property
    def marks_shadows(self) -> bool:
        return self.shadows >= _MARKED_SHARE

    @property
    def marks_highlights(self) -> bool:
        return self.highlights >= _MARKED_SHARE


def compute_histogram(image: Image.Image) -> Histogram:
    """Compute the histogram of an RGB image."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    counts = np.array(image.convert("L").histogram() + image.convert("RGB").histogram())
    counts = counts.reshape(len(CHANNELS), WIDTH)
    low, high = _CLIPPED
    # clipped levels and a few others are far above the rest, which would look like a flat line
    top = max(1.0, float(np.quantile(counts[:, low + 1 : high], 0.99)) * 1.1)
    return Histogram(
        tuple(_outline(channel / top) for channel in counts),
        float((pixels.min(axis=1) <= low).mean()),
        float((pixels.max(axis=1) >= high).mean()),
    )


def _outline(heights: NDArray[np.float64]) -> str:
    """Return `points` of a polygon for 256 heights; heights above 1 are cut off."""
    tops = HEIGHT * (1 - np.minimum(1, heights))
    points = [f"{x},{y:.1f}" for x, y in enumerate(tops)]
    return " ".join((f"0,{HEIGHT}", *points, f"{WIDTH - 1},{HEIGHT}"))
