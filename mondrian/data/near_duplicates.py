"""Photographs that are one and the same under several names.

A perceptual hash proposes pairs, in all four rotations; a closer look at their thumbnails, shifted
and scaled as light cropping would, decides. The hash alone cannot do both: cropped by a few per
cent a copy is as far from its original as some unrelated photographs are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

SIDE, TERMS = 32, 8  # of the thumbnail, and of the block of its lowest frequencies
_BLUR = 4  # pixels to each side whose mean is taken off: what is left are outlines, not the sky
_ZOOMS = (0.97, 0.94, 0.90)  # shares of a side that cropping may have left
_SHIFTS = (0.0, 0.5, 1.0)  # where on a side: at its start, in the middle, at its end
_CHUNK_SIZE = 512  # thumbnails compared at one time: bounds memory

Array = NDArray[Any]


def make_thumbnail(picture: Image.Image) -> bytes:
    """SIDE x SIDE grey values, row by row: all that is kept of a photograph to know it again."""
    grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return grey.tobytes()


def compute_phashes(thumbnails: Array) -> Array:
    """64-bit perceptual hashes of pictures and of their turns by 90, 180 and 270 degrees.

    thumbnails  (photographs, SIDE, SIDE)
    result      (photographs, 4) of uint64, the upright one first

    Signs of the 8 x 8 lowest terms of the discrete cosine transform: Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1, with the median of the
    terms as threshold. To turn a picture turns and mirrors its terms: one transform serves all.
    """
    k = np.arange(SIDE)
    waves = np.cos(np.pi * (k[None] + 0.5) * k[:TERMS, None] / SIDE)
    terms = waves @ thumbnails.astype(np.float64) @ waves.T
    mirror = (-1.0) ** np.arange(TERMS)
    turned = np.swapaxes(terms, 1, 2)
    four = (terms, mirror[:, None] * turned, mirror[:, None] * terms * mirror, turned * mirror)
    return np.stack([_signs(part) for part in four], axis=1)


def _signs(terms: Array) -> Array:
    flat = terms.reshape(len(terms), TERMS * TERMS)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


def cluster_thumbnails(thumbnails: Array, bits: int, likeness: float) -> list[int]:
    """A group number for each photograph; those that show the same share one.

    thumbnails  (photographs, SIDE, SIDE)
    bits        distance of two hashes up to which a pair is looked at closely
    likeness    correlation of their outlines from which two count as one
    """
    groups = DisjointSet(range(len(thumbnails)))
    hashes = compute_phashes(thumbnails)
    outlines = _outlines(thumbnails.astype(np.float32)).reshape(-1, SIDE * SIDE)
    for i, turned in enumerate(hashes):
        for turn, phash in enumerate(turned):
            near = np.flatnonzero(np.bitwise_count(hashes[:, 0] ^ phash) <= bits)
            near = np.array([j for j in near if not groups.connected(int(j), i)], int)
            if not len(near):
                continue
            cropped = _crop_outlines(np.rot90(thumbnails[i], turn).astype(np.float32))
            for start in range(0, len(near), _CHUNK_SIZE):
                chunk = near[start : start + _CHUNK_SIZE]
                alike = (outlines[chunk] @ cropped.T).max(axis=1) >= likeness
                for j in chunk[alike]:
                    groups.merge(i, int(j))
    return [int(groups[i]) for i in range(len(thumbnails))]


def _crop_outlines(thumbnail: Array) -> Array:
    """Outlines of a picture and of its light croppings, (croppings, SIDE * SIDE)."""
    rows = _windows() @ thumbnail
    parts = rows[:, None] @ np.swapaxes(_windows(), 1, 2)[None]
    return _outlines(parts.reshape(-1, SIDE, SIDE)).reshape(-1, SIDE * SIDE)


@cache
def _windows() -> Array:
    """Interpolation from a side to each window of it, (windows, SIDE, SIDE)."""
    shares = [(1.0, 0.0), *((zoom, shift) for zoom in _ZOOMS for shift in _SHIFTS)]
    return np.stack([_window(zoom, shift * (1 - zoom)) for zoom, shift in shares])


def _window(zoom: float, start: float) -> Array:
    coords = ((np.arange(SIDE) + 0.5) * zoom + start * SIDE - 0.5).clip(0, SIDE - 1)
    left = np.floor(coords).astype(int).clip(0, SIDE - 2)
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[np.arange(SIDE), left] = 1 - (coords - left)
    weights[np.arange(SIDE), left + 1] += coords - left
    return weights


def _outlines(pictures: Array) -> Array:
    """Pictures without their local mean, of length 1, so that a dot product is a correlation."""
    sharp = pictures - _blur_matrix() @ pictures @ _blur_matrix().T
    sharp = sharp - sharp.mean((-2, -1), keepdims=True)
    length = np.sqrt((sharp * sharp).sum((-2, -1), keepdims=True))
    return sharp / np.maximum(length, 1e-3)


@cache
def _blur_matrix() -> Array:
    near = np.abs(np.subtract.outer(np.arange(SIDE), np.arange(SIDE))) <= _BLUR
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
