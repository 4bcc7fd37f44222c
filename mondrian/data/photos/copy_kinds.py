"""Name how one photo differs from another one that it is a copy of."""

import numpy as np

from mondrian.data.photos.copy_alignment import Alignments, Comparisons
from mondrian.data.photos.copy_candidates import Candidates
from mondrian.data.photos.fingerprint import Array

SAME_BYTES, UNALTERED = "same bytes", "re-encoded or resized"
_CROPPED = 0.95  # part that is in the other photo
_TURNED = np.deg2rad(0.8)  # beyond a multiple of 90 degrees
_MARGIN = 3  # percent of the area by which the margins differ
_TONE, _COLOR = 14.0, 12  # of 255: mean differences of grey values, and of the mean colors


def name_kinds(
    photos: Array, pairs: Candidates, alignments: Alignments, comparisons: Comparisons
) -> list[str]:
    """Return for each pair how the second photo differs from the first."""
    scale = np.where(alignments.mirrored, -alignments.scale, alignments.scale)
    turn = np.angle(scale)  # mirrored left to right
    quarters = np.round(turn / (np.pi / 2)).astype(int) % 4
    a, b = photos[pairs.first], photos[pairs.second]
    margins = b["trimmed"].astype(int) - a["trimmed"]
    color = np.abs(b["color"].astype(int) - a["color"])
    cropped = comparisons.first_part < _CROPPED
    recolored = (comparisons.tone_change > _TONE) | (color[:, 3] > _COLOR)
    recolored |= ~cropped & (color[:, :3].max(axis=1) > _COLOR)
    tilt = np.abs(turn - np.round(turn / (np.pi / 2)) * np.pi / 2)
    changes = {
        "mirrored": alignments.mirrored,
        "rotated": quarters != 0,
        "straightened": tilt > _TURNED,
        "cropped": cropped,
        "less cropped": comparisons.second_part < _CROPPED,
        "bordered": margins > _MARGIN,
        "without border": margins < -_MARGIN,
        "recolored": recolored,
    }
    names = np.array(list(changes))
    rows = np.stack(list(changes.values()), axis=1)
    return [", ".join(names[row]) or UNALTERED for row in rows]
