"""Color profiles of the sample's photos: Display P3, in which phones store theirs.

Only matrix profiles: three primaries and one tone curve (ICC.1:2001-04, 6.3.1.2 and 6.4).
"""

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from mondrian.core.fields import FloatArray

_D50 = np.array([0.9642, 1.0, 0.8249])  # white of the profile connection space
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65 = (0.3127, 0.3290)
_DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))  # red, green, blue
Chromaticity = tuple[float, float]


def convert_to_display_p3(image: Image.Image) -> tuple[Image.Image, bytes]:
    """Convert an sRGB image; return it and the profile to save with it."""
    profile = build_rgb_profile(_DISPLAY_P3, _D65, "Display P3")
    source = ImageCms.createProfile("sRGB")
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, target)
    assert converted is not None
    return converted, profile


def build_rgb_profile(
    primaries: tuple[Chromaticity, Chromaticity, Chromaticity],
    white: Chromaticity,
    name: str,
    gamma: float | None = None,
) -> bytes:
    """Return an ICC profile of a color space.

    primaries, white   CIE x and y
    gamma              exponent of the tone curve; None is that of sRGB
    """
    columns = np.array([_to_xyz(primary) for primary in primaries]).T
    matrix = _adapt_to_d50(_to_xyz(white)) @ (columns * np.linalg.solve(columns, _to_xyz(white)))
    text = name.encode("ascii") + b"\0"
    curve = _encode_curve(gamma)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0No copyright\0",
        b"wtpt": _encode_xyz(_D50),
        **{b"%cXYZ" % color: _encode_xyz(matrix[:, i]) for i, color in enumerate(b"rgb")},
        **{b"%cTRC" % color: curve for color in b"rgb"},
    }
    return _assemble(tags)


def _to_xyz(chromaticity: Chromaticity) -> FloatArray:
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adapt_to_d50(white: FloatArray) -> FloatArray:
    """Return the Bradford adaptation from a white to D50, as ICC.1:2001-04 annex E describes it."""
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD)


def _encode_xyz(xyz: FloatArray) -> bytes:
    return b"XYZ \0\0\0\0" + np.round(xyz * 65536).astype(">i4").tobytes()


def _encode_curve(gamma: float | None) -> bytes:
    """Encode an exponent, or 1,024 points of the curve of sRGB (IEC 61966-2-1)."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.round(y * 65535).astype(">u2").tobytes()


def _assemble(tags: dict[bytes, bytes]) -> bytes:
    """Join header, table of tags and tags, each at a multiple of four bytes."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI", start + len(data), 0x02400000) + b"mntrRGB XYZ "
    header = head + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += np.round(_D50 * 65536).astype(">i4").tobytes()
    return header.ljust(128, b"\0") + table + data
