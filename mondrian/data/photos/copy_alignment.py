"""Decide whether two photos are copies: align them by their features and compare their outlines."""

from dataclasses import dataclass

import numpy as np

from mondrian.data.photos.copy_candidates import Candidates
from mondrian.data.photos.fingerprint import (
    ANGLE_UNIT,
    POSITION_UNIT,
    SIZE_UNIT,
    THUMBNAIL_SIDE,
    Array,
)

_MIN_INLIERS, _SURE_INLIERS = 3, 5  # features that agree on the alignment
_PENALTY = 0.2  # of the correlation, if few features agree
_ANGLE, _LOG_SIZE = 0.4, 0.4  # by which two features may disagree, radians and log of the ratio
_DISTANCE, _REACH = 4.0, 0.12  # pixels, and part of the distance between the two features
_PRIOR = 100.0  # square pixels: weight of the best feature's own size and direction
_LARGE, _SMALL = 0.60, 0.20  # of either photo, and of both, must be in the other
_BLUR = 5  # thumbnail pixels to each side of the mean that is subtracted
_OFFSETS = (1, -1, 1j, -1j, 1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j)  # thumbnail pixels
UNCLEAR = (0.35, 0.75)  # correlations of alignments that are refined


@dataclass(frozen=True)
class Alignments:
    """The position of the first photo of each pair in the second one, as complex numbers.

    A point z (from the middle, in pixels of the scaled photo; conj(z) if mirrored) of the first
    photo is at scale * z + shift in the second.
    """

    mirrored: Array
    scale: Array
    shift: Array
    inliers: Array  # number of features that agree


@dataclass(frozen=True)
class Comparisons:
    """The result for each pair: they are copies if their outlines correlate."""

    correlation: Array
    first_part: Array  # part of the first photo that is in the second
    second_part: Array
    tone_change: Array  # mean difference of grey values, of 255


def score_pairs(alignments: Alignments, comparisons: Comparisons) -> Array:
    """Return the correlation of each pair, less a penalty if few features agree; 0 for no copy."""
    parts = comparisons.first_part, comparisons.second_part
    overlap = (np.maximum(*parts) >= _LARGE) & (np.minimum(*parts) >= _SMALL)
    scores = comparisons.correlation - _PENALTY * (alignments.inliers < _SURE_INLIERS)
    return np.where(overlap & (alignments.inliers >= _MIN_INLIERS), scores, 0)


def align(photos: Array, pairs: Candidates) -> Alignments:
    """Return the similarity transform that most features agree on."""
    valid = pairs.first_features >= 0
    a, b = photos[pairs.first], photos[pairs.second]
    za, size_a, angle_a, flip_a = _select(a, pairs.first_features)
    zb, size_b, angle_b, flip_b = _select(b, pairs.second_features)
    mirrored = flip_a != flip_b
    za = np.where(mirrored, za.conj(), za)
    log_size = size_b - size_a
    turn = angle_b + np.where(mirrored, angle_a, -angle_a)
    scale = np.exp(log_size + 1j * turn)

    agrees = _find_agreeing(za, zb, scale, mirrored) & valid[:, None] & valid[:, :, None]
    distinct = _count_distinct(agrees, za, zb)
    rows = np.arange(len(za))
    best = distinct.argmax(axis=1)
    weights = agrees[rows, best]
    fit = _fit(za, zb, weights, scale[rows, best])
    return Alignments(mirrored[rows, best], *fit, distinct[rows, best])


def _select(photos: Array, numbers: Array) -> tuple[Array, Array, Array, Array]:
    rows = np.arange(len(numbers))[:, None]
    positions = photos["position"][rows, numbers] * POSITION_UNIT
    sizes = photos["log_size"][rows, numbers] * SIZE_UNIT
    angles = photos["angle"][rows, numbers] * ANGLE_UNIT
    z = positions[..., 0] + 1j * positions[..., 1]
    return z, sizes, angles, photos["flipped"][rows, numbers]


def _find_agreeing(za: Array, zb: Array, scale: Array, mirrored: Array) -> Array:
    """Return which features (last axis) fit the alignment by each feature, (pairs, n, n)."""
    steps = (za[:, None] - za[:, :, None]) * scale[:, :, None]
    errors = np.abs(steps - (zb[:, None] - zb[:, :, None]))
    ratio = scale[:, None] / scale[:, :, None]
    return (
        (errors < _DISTANCE + _REACH * np.abs(steps))
        & (np.abs(np.angle(ratio)) < _ANGLE)
        & (np.abs(np.log(np.abs(ratio))) < _LOG_SIZE)
        & (mirrored[:, None] == mirrored[:, :, None])
    )


def _count_distinct(agrees: Array, za: Array, zb: Array) -> Array:
    """Count agreeing features, those at one place once."""
    near_a = np.abs(za[:, None] - za[:, :, None]) < 2
    near_b = np.abs(zb[:, None] - zb[:, :, None]) < 2
    earlier = np.tri(za.shape[1], k=-1, dtype=bool)
    repeats = (near_a | near_b) & earlier  # (pairs, feature, earlier feature)
    repeated = agrees.astype(np.float32) @ repeats.astype(np.float32).swapaxes(1, 2) > 0
    return (agrees & ~repeated).sum(axis=2)


def _fit(za: Array, zb: Array, weights: Array, prior: Array) -> tuple[Array, Array]:
    """Return scale and shift by least squares."""
    total = weights.sum(axis=1).clip(1)
    mean_a, mean_b = ((weights * z).sum(axis=1) / total for z in (za, zb))
    da, db = za - mean_a[:, None], zb - mean_b[:, None]
    products = (weights * da.conj() * db).sum(axis=1) + _PRIOR * prior
    scale = products / ((weights * np.abs(da) ** 2).sum(axis=1) + _PRIOR)
    return scale, mean_b - scale * mean_a


def compare(photos: Array, pairs: Candidates, alignments: Alignments) -> Comparisons:
    """Return the correlation of outlines for each pair, on the photo that shows less.

    Unclear ones are looked at again with the alignment moved by a pixel of the thumbnail.
    """
    result = _compare_moved(photos, pairs, alignments, 0)
    low, high = UNCLEAR
    rows = np.flatnonzero((result.correlation > low) & (result.correlation < high))
    if len(rows):
        unclear_pairs = pairs.select(rows)
        unclear_alignments = Alignments(*(v[rows] for v in vars(alignments).values()))
        for offset in _OFFSETS:
            moved = _compare_moved(photos, unclear_pairs, unclear_alignments, offset)
            better = moved.correlation > result.correlation[rows]
            for name, values in vars(moved).items():
                getattr(result, name)[rows[better]] = values[better]
    return result


def _compare_moved(
    photos: Array, pairs: Candidates, alignments: Alignments, offset: complex
) -> Comparisons:
    zooms = np.abs(alignments.scale) > 1  # the second photo shows less: look it up in the first
    source = photos[np.where(zooms, pairs.first, pairs.second)]
    target = photos[np.where(zooms, pairs.second, pairs.first)]
    step = np.sqrt(np.prod(target["size"].astype(np.float32), axis=1)) / THUMBNAIL_SIDE
    grid = _grid(target) + (offset * step)[:, None, None].astype(np.complex64)
    places = np.where(zooms[:, None, None], _invert(alignments, grid), _apply(alignments, grid))
    pixels = target["thumbnail"].astype(np.float32)
    return _compare_at(source, pixels, places, zooms, np.abs(alignments.scale))


def _grid(photos: Array) -> Array:
    """Return the middles of the thumbnail's pixels as complex positions."""
    steps = (np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE - 0.5
    steps = steps.astype(np.float32)
    width, height = photos["size"].T.astype(np.float32)
    return steps[None, None] * width[:, None, None] + 1j * steps[:, None] * height[:, None, None]


def _apply(alignments: Alignments, z: Array) -> Array:
    mirrored = alignments.mirrored[:, None, None]
    scale, shift = _expand(alignments)
    return scale * np.where(mirrored, z.conj(), z) + shift


def _invert(alignments: Alignments, z: Array) -> Array:
    scale, shift = _expand(alignments)
    result = (z - shift) / scale
    return np.where(alignments.mirrored[:, None, None], result.conj(), result)


def _expand(alignments: Alignments) -> tuple[Array, Array]:
    """Return scale and shift, (pairs, 1, 1)."""
    scale, shift = alignments.scale, alignments.shift
    return scale.astype(np.complex64)[:, None, None], shift.astype(np.complex64)[:, None, None]


def _compare_at(source: Array, target: Array, places: Array, zooms: Array, s: Array) -> Comparisons:
    width, height = source["size"].T.astype(np.float32)
    x = (places.real / width[:, None, None] + 0.5) * THUMBNAIL_SIDE - 0.5
    y = (places.imag / height[:, None, None] + 0.5) * THUMBNAIL_SIDE - 0.5
    inside = (np.abs(x - (THUMBNAIL_SIDE - 1) / 2) < THUMBNAIL_SIDE / 2) & (
        np.abs(y - (THUMBNAIL_SIDE - 1) / 2) < THUMBNAIL_SIDE / 2
    )
    sampled = _interpolate(source["thumbnail"], x, y)
    mask = inside.astype(np.float32)
    a, b = _outlines(sampled, mask), _outlines(target, mask)
    product, norms = (a * b).sum((1, 2)), (a * a).sum((1, 2)) * (b * b).sum((1, 2))
    overlap = mask.mean((1, 2))
    ratio = np.where(zooms, s, 1 / s) ** 2  # areas of the scaled photos are equal
    parts = overlap, (overlap / ratio).clip(0, 1)
    tone = (np.abs(sampled - target) * mask).sum((1, 2)) / mask.sum((1, 2)).clip(1)
    first, second = np.where(zooms, parts[::-1], parts)
    return Comparisons(product / np.sqrt(norms.clip(1e-6)), first, second, tone)


def _interpolate(thumbnails: Array, x: Array, y: Array) -> Array:
    x, y = (values.clip(0, THUMBNAIL_SIDE - 1.001).astype(np.float32) for values in (x, y))
    left, top = x.astype(np.int64), y.astype(np.int64)
    flat = thumbnails.reshape(len(thumbnails), -1)
    rows = np.arange(len(flat))[:, None, None]
    index = top * THUMBNAIL_SIDE + left
    x, y = x - left, y - top
    upper = flat[rows, index] * (1 - x) + flat[rows, index + 1] * x
    index = index + THUMBNAIL_SIDE
    return upper * (1 - y) + (flat[rows, index] * (1 - x) + flat[rows, index + 1] * x) * y


def _outlines(images: Array, mask: Array) -> Array:
    """Return images without their local mean, 0 outside the mask, with mean 0 inside."""
    near = np.abs(np.subtract.outer(np.arange(THUMBNAIL_SIDE), np.arange(THUMBNAIL_SIDE))) <= _BLUR
    blur = near.astype(np.float32)
    weights = (blur @ mask @ blur).clip(1)
    sharp = (images - blur @ (images * mask) @ blur / weights) * mask
    mean = sharp.sum((1, 2)) / mask.sum((1, 2)).clip(1)
    return (sharp - mean[:, None, None]) * mask
