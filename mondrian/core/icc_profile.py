"""Color profiles made from numbers, for photos that name a color space without a profile.

ICC.1:2010 (profile version 4): three primaries, a white point and a tone curve.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Chromaticity = tuple[float, float]  # CIE x, y
Primaries = tuple[Chromaticity, Chromaticity, Chromaticity]  # red, green, blue

D65: Chromaticity = (0.3127, 0.3290)
ADOBE_RGB: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = (563 / 256,)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # g a b c d of IEC 61966-2-1
_D50_XYZ = (0.9642, 1.0, 0.8249)  # of the profile connection space
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def make_rgb_profile(
    primaries: Primaries, white: Chromaticity, curve: Sequence[float], name: str
) -> bytes:
    """Return an ICC profile of a display.

    curve  parameters of a parametric curve: gamma alone, or g a b c d (ICC.1:2010, 10.16)
    """
    colorants = _adapt_to_d50(white) @ _primaries_to_xyz(primaries, white)
    tone_curve = _tag(b"para", struct.pack(">HH", 0 if len(curve) == 1 else 3, 0), curve)
    tags = {
        b"desc": _text_tag(name),
        b"cprt": _text_tag("public domain"),
        b"wtpt": _tag(b"XYZ ", b"", _D50_XYZ),
        **{
            key: _tag(b"XYZ ", b"", colorants[:, i])
            for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone_curve),
    }
    return _assemble(tags)


def _to_xyz(point: Chromaticity) -> NDArray[np.float64]:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _primaries_to_xyz(primaries: Primaries, white: Chromaticity) -> NDArray[np.float64]:
    """Return the matrix from linear RGB to XYZ: RGB (1, 1, 1) is the white point."""
    columns = np.stack([_to_xyz(point) for point in primaries], axis=1)
    result: NDArray[np.float64] = columns * np.linalg.solve(columns, _to_xyz(white))
    return result


def _adapt_to_d50(white: Chromaticity) -> NDArray[np.float64]:
    """Return the Bradford matrix from XYZ under a white point to XYZ under D50."""
    scale = (_BRADFORD @ np.array(_D50_XYZ)) / (_BRADFORD @ _to_xyz(white))
    result: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD)
    return result


def _tag(kind: bytes, head: bytes, numbers: Sequence[float] | NDArray[np.float64]) -> bytes:
    fixed = (round(float(number) * 65536) for number in numbers)
    return kind + bytes(4) + head + b"".join(struct.pack(">i", number) for number in fixed)


def _text_tag(text: str) -> bytes:
    content = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(content), 28) + content


def _assemble(tags: dict[bytes, bytes]) -> bytes:
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for key, content in tags.items():
        table += key + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4s4s4s4s4s", start + len(data), b"", b"\4\3\0\0", b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + _tag(b"", b"", _D50_XYZ)[4:]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data
