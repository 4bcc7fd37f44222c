"""Margins of one tone around a photo: borders, frames, polaroids, the bars of screenshots."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 14  # of 255 in each channel: JPEG noise and a paper's shade
_MIN_EDGE = 0.97  # part of the outermost lines that has one tone, if there is a margin
# Part of a line of the margin that has it: a caption or a clock covers the rest. If too little of
# the photo would remain, the next value is tried.
_MIN_LINE = (0.60, 0.90, 0.98)
_MIN_AREA = 0.15  # part of the image that is never trimmed
_MIN_SIDE = 24  # pixels
_MAX_FRAMES = 4  # margins in one another

Pixels = NDArray[np.uint8]


def trim_margins(rgb: Pixels) -> Pixels:
    """Return the part of (height, width, 3) pixels within all margins."""
    min_area = _MIN_AREA * rgb.shape[0] * rgb.shape[1]
    for _ in range(_MAX_FRAMES):
        full_size = rgb.shape
        for axis in (0, 1):
            for reverse in (False, True):
                rgb = _trim_side(rgb, axis, reverse, min_area)
        if rgb.shape == full_size:
            break
    return rgb


def _trim_side(rgb: Pixels, axis: int, reverse: bool, min_area: float) -> Pixels:
    lines: NDArray[Any] = rgb if axis == 0 else rgb.transpose(1, 0, 2)
    lines = lines[::-1] if reverse else lines
    edge = lines[:2].reshape(-1, 3).astype(np.int16)
    tone = np.median(edge, axis=0)
    if (np.abs(edge - tone).max(axis=1) <= _TOLERANCE).mean() < _MIN_EDGE:
        return rgb
    low, high = tone - _TOLERANCE, tone + _TOLERANCE
    parts = ((lines >= low) & (lines <= high)).all(axis=2).mean(axis=1)
    for min_line in _MIN_LINE:
        width = int(np.append(parts < min_line, True).argmax())
        remaining = len(lines) - width
        if remaining >= _MIN_SIDE and remaining * lines.shape[1] >= min_area:
            lines = lines[width:]
            break
    lines = lines[::-1] if reverse else lines
    return lines if axis == 0 else lines.transpose(1, 0, 2)
