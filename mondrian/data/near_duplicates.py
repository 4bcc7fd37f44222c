"""Find photos that show the same image, as copies under several names.

A perceptual hash proposes pairs, in all four rotations, and a comparison of their lightly cropped
thumbnails decides: by hash alone, a cropped copy is as far away as some unrelated photos are.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

from mondrian.core.params import ImageParams

THUMBNAIL_SIDE, TERMS = 32, 8  # sides of the thumbnail and of the block of lowest frequencies
_BLUR = 4  # pixels to each side of the subtracted mean: outlines remain, not the sky
_ZOOMS = (0.97, 0.94, 0.90)  # fractions of a side that cropping may leave
_SHIFTS = (0.0, 0.5, 1.0)  # position of the crop: at the start, in the middle, at the end
_CHUNK_SIZE = 512  # thumbnails compared at a time: bounds memory

Array = NDArray[Any]


def make_thumbnail(image: Image.Image) -> bytes:
    """Return THUMBNAIL_SIDE x THUMBNAIL_SIDE grey values, row by row."""
    grey = image.convert("L").resize(
        (THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    return grey.tobytes()


def group_near_duplicates(
    thumbnails: dict[str, bytes], image_params: ImageParams
) -> dict[str, str]:
    """Return the group of each photo (sha256), named after the first photo in it."""
    pixels = np.frombuffer(b"".join(thumbnails.values()), np.uint8).reshape(
        -1, THUMBNAIL_SIDE, THUMBNAIL_SIDE
    )
    bounds = (image_params.phash_distance, image_params.duplicate_similarity)
    numbers = cluster_thumbnails(pixels, *bounds)
    names: dict[int, str] = {}
    return {
        sha256: names.setdefault(number, sha256[:16])
        for sha256, number in zip(thumbnails, numbers, strict=True)
    }


def compute_phashes(thumbnails: Array) -> Array:
    """Return 64-bit perceptual hashes of images and of their rotations by 90, 180 and 270 degrees.

    thumbnails  (photos, SIDE, SIDE)
    result      (photos, 4) of uint64, the upright one first

    Signs of the 8 x 8 lowest terms of the discrete cosine transform: Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1, with the median of the
    terms as threshold. Rotating an image transposes and mirrors its terms: one transform is enough.
    """
    k = np.arange(THUMBNAIL_SIDE)
    waves = np.cos(np.pi * (k[None] + 0.5) * k[:TERMS, None] / THUMBNAIL_SIDE)
    terms = waves @ thumbnails.astype(np.float64) @ waves.T
    transposed = np.swapaxes(terms, 1, 2)
    columns = (-1.0) ** np.arange(TERMS)
    rows = columns[:, None]
    rotations = (terms, rows * transposed, rows * terms * columns, transposed * columns)
    flat = np.stack(rotations, axis=1).reshape(len(terms), 4, TERMS * TERMS)
    bits = flat > np.median(flat[:, :, 1:], axis=2, keepdims=True)
    return np.packbits(bits, axis=2).view(">u8").astype(np.uint64)[:, :, 0]


def cluster_thumbnails(thumbnails: Array, max_distance: int, min_similarity: float) -> list[int]:
    """Return a group number for each photo of (photos, SIDE, SIDE).

    max_distance    bits by which two hashes may differ for their pair to be compared
    min_similarity  correlation of their outlines from which a pair is one group
    """
    groups = DisjointSet(range(len(thumbnails)))
    hashes = compute_phashes(thumbnails)
    outlines = _outlines(thumbnails.astype(np.float32)).reshape(-1, THUMBNAIL_SIDE * THUMBNAIL_SIDE)
    for i, rotated_hashes in enumerate(hashes):
        for turns, phash in enumerate(rotated_hashes):
            near = np.flatnonzero(np.bitwise_count(hashes[:, 0] ^ phash) <= max_distance)
            near = np.array([j for j in near if not groups.connected(int(j), i)], int)
            if not len(near):
                continue
            crops = _crop_outlines(np.rot90(thumbnails[i], turns).astype(np.float32))
            for start in range(0, len(near), _CHUNK_SIZE):
                chunk = near[start : start + _CHUNK_SIZE]
                for j in chunk[(outlines[chunk] @ crops.T).max(axis=1) >= min_similarity]:
                    groups.merge(i, int(j))
    return [int(groups[i]) for i in range(len(thumbnails))]


def _crop_outlines(thumbnail: Array) -> Array:
    """Return the outlines of an image and of its light crops, (crops, pixels)."""
    rows = _windows() @ thumbnail
    crops = rows[:, None] @ np.swapaxes(_windows(), 1, 2)[None]
    return _outlines(crops.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)).reshape(
        -1, THUMBNAIL_SIDE * THUMBNAIL_SIDE
    )


@cache
def _windows() -> Array:
    """Return the interpolation from a side to each window of it, (windows, SIDE, SIDE)."""
    crops = [(1.0, 0.0), *((zoom, shift) for zoom in _ZOOMS for shift in _SHIFTS)]
    windows = np.zeros((len(crops), THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.float32)
    for weights, (zoom, shift) in zip(windows, crops, strict=True):
        start = shift * (1 - zoom)
        coords = ((np.arange(THUMBNAIL_SIDE) + 0.5) * zoom + start * THUMBNAIL_SIDE - 0.5).clip(
            0, THUMBNAIL_SIDE - 1
        )
        left = np.floor(coords).astype(int).clip(0, THUMBNAIL_SIDE - 2)
        weights[np.arange(THUMBNAIL_SIDE), left] = 1 - (coords - left)
        weights[np.arange(THUMBNAIL_SIDE), left + 1] += coords - left
    return windows


def _outlines(images: Array) -> Array:
    """Return images without their local mean, of length 1: a dot product is a correlation."""
    sharp = images - _blur_matrix() @ images @ _blur_matrix().T
    sharp = sharp - sharp.mean((-2, -1), keepdims=True)
    length = np.sqrt((sharp * sharp).sum((-2, -1), keepdims=True))
    return sharp / np.maximum(length, 1e-3)


@cache
def _blur_matrix() -> Array:
    near = np.abs(np.subtract.outer(np.arange(THUMBNAIL_SIDE), np.arange(THUMBNAIL_SIDE))) <= _BLUR
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
