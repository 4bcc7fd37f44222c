"""Pairs of photos that may be copies: those with equal feature codes.

Whether two photos are a candidate pair depends on these two alone, so that pairs found before stay
valid when photos are added. The work grows with the number of equal codes, not of pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mondrian.data.photos.fingerprint import MAX_FEATURES, Array

MIN_MATCHES = 3  # equal codes of a candidate pair
MAX_MATCHES = 14  # of a pair that are compared further
MAX_PHOTOS_PER_CODE = 1000  # a commoner code is that of an icon or a caption
_MAX_HITS = 20_000_000  # equal codes looked at together: bounds memory


class CommonCodeError(Exception):
    """New photos make a code too common: pairs found by it before are to be forgotten."""


@dataclass(frozen=True)
class Candidates:
    """Pairs with the features that have equal codes; rows of a pair are padded with -1."""

    first: Array  # (pairs,) index of a photo
    second: Array  # (pairs,) a greater index
    first_features: Array  # (pairs, MAX_MATCHES)
    second_features: Array

    def select(self, rows: slice | Array) -> "Candidates":
        return Candidates(*(values[rows] for values in vars(self).values()))


def iter_candidates(photos: Array, is_new: Array) -> Iterator[Candidates]:
    """Yield the candidate pairs with at least one new photo; raises CommonCodeError.

    photos  (photos,) of FINGERPRINT
    is_new  (photos,) bool
    """
    codes = photos["codes"]
    present = np.arange(MAX_FEATURES) < photos["count"][:, None]
    sorted_features = [
        _sort_by_code(codes[:, :, i], present, is_new) for i in range(codes.shape[2])
    ]
    counts = sum(_count_hits(features, len(photos)) for features in sorted_features)
    for start, end in _split_photos(np.asarray(counts)):
        hits = [_find_hits(features, start, end) for features in sorted_features]
        candidates = _gather(np.unique(np.concatenate(hits)), is_new)
        if len(candidates.first):
            yield candidates


@dataclass(frozen=True)
class _SortedFeatures:
    """Features (photo x MAX_FEATURES + number) in the order of their codes, then of photos."""

    features: Array
    run_ends: Array  # (features,) where the run of equal codes ends


def _sort_by_code(codes: Array, present: Array, is_new: Array) -> _SortedFeatures:
    photo, number = np.nonzero(present)
    values = codes[photo, number]
    is_new_code = np.zeros(1 << 28, bool)
    is_new_code[values[is_new[photo]]] = True
    has_new_code = is_new_code[values]
    del is_new_code
    features = (photo[has_new_code] * MAX_FEATURES + number[has_new_code]).astype(np.int64)
    order = np.argsort(values[has_new_code], kind="stable")
    features, values = features[order], values[has_new_code][order]
    starts = np.flatnonzero(np.diff(values, prepend=np.uint32(0xFFFFFFFF)))
    sizes = np.diff(starts, append=len(values))
    if len(values):
        new_sizes = np.add.reduceat(is_new[features // MAX_FEATURES].astype(np.int64), starts)
        old_sizes = sizes - new_sizes
        was_rare = (old_sizes > 0) & (old_sizes <= MAX_PHOTOS_PER_CODE)
        if (was_rare & (sizes > MAX_PHOTOS_PER_CODE)).any():
            raise CommonCodeError
    is_rare = np.repeat(sizes <= MAX_PHOTOS_PER_CODE, sizes)
    ends = np.repeat(starts + sizes, sizes)
    return _SortedFeatures(features, np.where(is_rare, ends, 0))


def _count_hits(sorted_features: _SortedFeatures, num_photos: int) -> Array:
    """Return the number of equal codes in later photos for each photo."""
    later = (sorted_features.run_ends - np.arange(len(sorted_features.features)) - 1).clip(0)
    photos = sorted_features.features // MAX_FEATURES
    return np.bincount(photos, weights=later, minlength=num_photos)


def _split_photos(counts: Array) -> Iterator[tuple[int, int]]:
    """Yield ranges of photos with about _MAX_HITS equal codes each."""
    parts = (np.cumsum(counts) // _MAX_HITS).astype(np.int64)
    edges = [0, *(np.flatnonzero(np.diff(parts)) + 1), len(counts)]
    yield from zip(edges[:-1], edges[1:], strict=True)


def _find_hits(sorted_features: _SortedFeatures, start: int, end: int) -> Array:
    """Return pairs of features as numbers: the first one's photo is from `start` to `end`."""
    features = sorted_features.features
    photos = features // MAX_FEATURES
    rows = np.flatnonzero((photos >= start) & (photos < end))
    sizes = (sorted_features.run_ends[rows] - rows - 1).clip(0)
    first = np.repeat(rows, sizes)
    offsets = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    second = first + 1 + offsets
    first, second = features[first], features[second]
    other = first // MAX_FEATURES != second // MAX_FEATURES
    return first[other] << 32 | second[other]


def _gather(hits: Array, is_new: Array) -> Candidates:
    """Return the pairs of photos with MIN_MATCHES hits; hits are sorted."""
    first, second = hits >> 32, hits & 0xFFFFFFFF
    pairs = (first // MAX_FEATURES) << 32 | second // MAX_FEATURES
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    starts, sizes = starts[sizes >= MIN_MATCHES], sizes[sizes >= MIN_MATCHES]
    photos = pairs[order[starts]]
    has_new = is_new[photos >> 32] | is_new[photos & 0xFFFFFFFF]
    starts, sizes, photos = starts[has_new], sizes[has_new], photos[has_new]
    ranks = np.arange(MAX_MATCHES)
    rows = order[(starts[:, None] + ranks).clip(max=max(0, len(order) - 1))]
    valid = ranks < sizes[:, None]
    numbers = [np.where(valid, side[rows] % MAX_FEATURES, -1) for side in (first, second)]
    return Candidates(photos >> 32, photos & 0xFFFFFFFF, *numbers)
