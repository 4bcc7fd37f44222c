"""Fingerprint of a photo, by which copies of it are found: local features and a thumbnail.

Margins are trimmed first. The features are SIFT's (Lowe, "Distinctive Image Features from
Scale-Invariant Keypoints", 2004): each has a position, a size and a direction, which show how a
copy was cropped, turned and scaled. The sign of the terms of a feature's cosine transform make a
code, equal in a copy for about every third feature; a mirrored feature has the same code.
"""

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mondrian.data.photos.margins import trim_margins

AREA = 160 * 160  # pixels of the scaled photo, whatever its sides
MAX_FEATURES = 80
NUM_CODES = 2  # per feature, from different terms
THUMBNAIL_SIDE = 48
POSITION_UNIT, SIZE_UNIT, ANGLE_UNIT = 1 / 32, 1 / 4096, 2 * np.pi / 65536
FINGERPRINT = np.dtype(
    [
        ("size", "<u2", 2),  # width and height of the scaled photo
        ("trimmed", "u1"),  # percent of the area that was margin
        ("color", "u1", 4),  # means of R, G, B and of the distance from grey
        ("count", "u1"),  # features
        ("codes", "<u4", (MAX_FEATURES, NUM_CODES)),
        ("position", "<i2", (MAX_FEATURES, 2)),  # from the middle; POSITION_UNIT pixels
        ("log_size", "<i2", MAX_FEATURES),  # SIZE_UNIT
        ("angle", "<u2", MAX_FEATURES),  # ANGLE_UNIT
        ("flipped", "?", MAX_FEATURES),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
    ]
)
Array = NDArray[Any]

_MIN_CONTRAST, _MAX_EDGE = 0.003, 14.0  # SIFT's thresholds: fog and skies have features, too
_HANDED_TERM = (0, 0, 2)  # its sign changes if the photo is mirrored
# Terms (across the direction, along it, of the gradients' angle) by how little copying changes them
_TERMS = (
    *((0, 0, 1), (0, 0, 3), (0, 3, 1), (0, 1, 1), (1, 0, 2), (2, 3, 1), (0, 1, 3), (0, 1, 2)),
    *((0, 2, 1), (1, 0, 3), (0, 0, 4), (0, 1, 0), (1, 0, 4), (3, 2, 2), (2, 0, 2), (1, 1, 2)),
    *((1, 0, 1), (0, 1, 4), (0, 0, 5), (1, 1, 1), (0, 2, 2), (1, 2, 2), (0, 2, 3), (2, 1, 2)),
    *((1, 2, 1), (0, 2, 0), (3, 0, 2), (1, 1, 4), (0, 1, 5), (2, 1, 1), (2, 0, 3), (1, 1, 3)),
    *((0, 2, 4), (1, 0, 0), (2, 0, 0), (0, 3, 3), (1, 2, 3), (2, 1, 3), (1, 2, 4)),
)
_MEDIANS = {  # of the terms that are not evenly distributed around 0, over 139 photos
    (0, 0, 1): 0.113,
    (0, 0, 3): 0.129,
    (0, 0, 5): 0.031,
    (0, 2, 0): -0.099,
    (0, 2, 1): -0.097,
    (0, 2, 3): -0.045,
    (2, 0, 0): -0.073,
    (2, 0, 3): -0.036,
    (1, 1, 2): 0.043,
    (2, 0, 2): -0.017,
    (0, 2, 2): -0.019,
    (1, 1, 1): 0.011,
    (1, 0, 2): 0.011,
}
_CODE_TERMS = ((*range(28),), (*range(10), *range(21, 39)))  # indices of the terms of each code


def make_fingerprint(image: Image.Image) -> bytes:
    """Return the bytes of a FINGERPRINT."""
    full = np.asarray(image.convert("RGB"))
    rgb = trim_margins(full)
    photo = np.zeros((), FINGERPRINT)
    photo["trimmed"] = round(100 * (1 - rgb.size / full.size))
    photo["color"] = _measure_color(rgb)
    grey = _scale_to_area(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))
    photo["size"] = grey.shape[::-1]
    sides = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    photo["thumbnail"] = cv2.resize(grey, sides, interpolation=cv2.INTER_AREA)
    _add_features(photo, grey)
    return photo.tobytes()


def _measure_color(rgb: Array) -> Array:
    small = cv2.resize(np.ascontiguousarray(rgb), (64, 64), interpolation=cv2.INTER_AREA)
    small = small.reshape(-1, 3).astype(np.float64)
    distance = np.abs(small - small.mean(axis=1, keepdims=True)).max(axis=1)
    return np.round([*small.mean(axis=0), distance.mean()])


def _scale_to_area(grey: Array) -> Array:
    factor = (AREA / grey.size) ** 0.5
    height, width = (max(16, round(side * factor)) for side in grey.shape)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(grey, (width, height), interpolation=method)


def _add_features(photo: Array, grey: Array) -> None:
    """Store the strongest features, large ones and those that are not symmetric preferred."""
    detector = cv2.SIFT.create(contrastThreshold=_MIN_CONTRAST, edgeThreshold=_MAX_EDGE)
    strongest = sorted(detector.detect(grey, None), key=lambda k: -k.response * k.size)
    keypoints, descriptors = detector.compute(grey, strongest[: 2 * MAX_FEATURES])
    if not keypoints:
        return
    terms, handed = _transform(descriptors)
    weights = np.where(np.abs(handed) > 0.03, 1, 0.3)
    weights = weights * [keypoint.response * keypoint.size for keypoint in keypoints]
    order = np.argsort(-weights, kind="stable")[:MAX_FEATURES]
    points = [keypoints[i] for i in order]
    n = len(points)
    photo["count"] = n
    photo["flipped"][:n] = handed[order] < 0
    photo["codes"][:n] = _compute_codes(terms[order])
    middle = (np.array(grey.shape[::-1]) - 1) / 2
    positions = np.array([point.pt for point in points]) - middle
    photo["position"][:n] = np.round(positions / POSITION_UNIT).clip(-32768, 32767)
    photo["log_size"][:n] = np.round(np.log([point.size for point in points]) / SIZE_UNIT)
    angles = np.deg2rad([point.angle for point in points])
    photo["angle"][:n] = np.round(angles / ANGLE_UNIT).astype(np.int64) % 65536


def _transform(descriptors: Array) -> tuple[Array, Array]:
    """Return the terms of each feature as if it were not mirrored, and its handed term."""
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    products = roots @ _all_bases()
    terms, handed = products[:, :-1], products[:, -1]
    changes = np.array([_changes_if_mirrored(*term) for term in _TERMS])
    return np.where((handed < 0)[:, None] & changes, -terms, terms), handed


@cache
def _all_bases() -> Array:
    """Return the weights of all terms, and of the handed one, (128, terms)."""
    return np.stack([_basis(*term) for term in (*_TERMS, _HANDED_TERM)], axis=1)


def _basis(across: int, along: int, turn: int) -> Array:
    """Return the weights of a term over SIFT's 4 x 4 places and 8 angles, (128,)."""
    places = np.pi * (np.arange(4) + 0.5) / 4
    angles = 2 * np.pi * ((turn + 1) // 2) * np.arange(8) / 8
    waves = np.sin(angles) if turn and turn % 2 == 0 else np.cos(angles)
    factors = [np.cos(across * places), np.cos(along * places), waves]
    factors = [factor / np.linalg.norm(factor) for factor in factors]
    return np.einsum("i,j,k->ijk", *factors).ravel()


def _changes_if_mirrored(across: int, along: int, turn: int) -> bool:
    return (across % 2 == 1) != (turn > 0 and turn % 2 == 0)


def _compute_codes(terms: Array) -> Array:
    """Return NUM_CODES numbers for each feature, (features, NUM_CODES)."""
    bits = terms > np.array([_MEDIANS.get(term, 0.0) for term in _TERMS])
    codes = [bits[:, indices] @ (1 << np.arange(len(indices))) for indices in _CODE_TERMS]
    return np.stack(codes, axis=1)
