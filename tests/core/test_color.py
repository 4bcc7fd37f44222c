"""Photos of every color space and mode come out as the sRGB picture that they show."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from mondrian.core import color
from mondrian.core.icc_profile import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    D65,
    SRGB_CURVE,
    make_rgb_profile,
)
from mondrian.core.images import read_photo, read_preview, read_thumbnail
from tests.core.color_photos import (
    P3_PROFILE,
    decode_srgb,
    difference,
    make_colorful,
    on_white,
    to_p3,
)

D50 = (0.3457, 0.3585)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
ADOBE_PROFILE = make_rgb_profile(ADOBE_RGB, D65, ADOBE_GAMMA, "Adobe RGB (1998)")
PROPHOTO_PROFILE = make_rgb_profile(PROPHOTO, D50, (1.8,), "ProPhoto RGB")
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HEIC = (Path(__file__).parent / "rendered.heic").read_bytes()
# sRGB to Display P3 and to Adobe RGB, linear, all with the white point D65 (CSS Color 4)
TO_ADOBE = np.array([[0.7151256, 0.2848744, 0], [0, 1, 0], [0, 0.0411619, 0.9588381]])


@pytest.fixture(scope="module")
def photo(photos: list[Image.Image]) -> Image.Image:
    return make_colorful(photos[5])


def to_adobe(image: Image.Image) -> Image.Image:
    linear = decode_srgb(np.asarray(image) / 255) @ TO_ADOBE.T
    return Image.fromarray(np.rint(linear.clip(0, 1) ** (256 / 563) * 255).astype(np.uint8))


def to_profile(image: Image.Image, profile: bytes, mode: str = "RGB") -> Image.Image:
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    source = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(
        source, target, "RGB", mode, ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    return transform.apply(image)


SPACES: dict[str, tuple[Callable[[Image.Image], Image.Image], bytes]] = {
    "Display P3": (to_p3, P3_PROFILE),
    "Adobe RGB": (to_adobe, ADOBE_PROFILE),
    "ProPhoto": (lambda image: to_profile(image, PROPHOTO_PROFILE), PROPHOTO_PROFILE),
}
ENCODINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 97, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
}


def save(image: Image.Image, path: Path, kind: str, **more: Any) -> Path:
    image.save(path, kind, **{**ENCODINGS[kind], **more})
    return path


def test_a_made_profile_is_the_one_of_the_color_library(photo: Image.Image) -> None:
    profile = make_rgb_profile(SRGB, D65, SRGB_CURVE, "sRGB")
    assert difference(to_profile(photo, profile), photo) < 0.5


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("space", SPACES)
def test_a_photo_with_a_profile_shows_its_colors(
    space: str, kind: str, tmp_path: Path, photo: Image.Image
) -> None:
    convert, profile = SPACES[space]
    stored = convert(photo.resize((960, 768)))
    assert difference(stored, photo) > 5  # as it is without its profile
    path = save(stored, tmp_path / "photo", kind, icc_profile=profile)
    preview = read_preview(path)
    for image in (read_photo(path), preview.image, read_thumbnail(path, 240)):
        assert difference(image, photo) < 2
        assert not image.info
    assert preview.notes == ()


def put_profile_into_heic(profile: bytes) -> bytes:
    """Replace the color box of a HEIC file by an ICC profile; all boxes around it grow."""
    start = HEIC.index(b"colr") - 4
    end = start + int.from_bytes(HEIC[start : start + 4], "big")
    box = struct.pack(">I4s4s", 12 + len(profile), b"colr", b"prof") + profile
    growth = len(box) - (end - start)
    content = bytearray(HEIC[:start] + box + HEIC[end:])
    offsets = [HEIC.index(name) - 4 for name in (b"meta", b"iprp", b"ipco")]
    item = HEIC.index(b"iloc") + 16  # the offsets of two items, with 18 bytes for each
    offsets += [item, item + 18]
    for offset in offsets:
        content[offset : offset + 4] = (
            int.from_bytes(content[offset : offset + 4], "big") + growth
        ).to_bytes(4, "big")
    return bytes(content)


@pytest.fixture(scope="module")
def heic_pixels() -> Image.Image:
    with Image.open(io.BytesIO(HEIC)) as file:
        return file.convert("RGB")


@pytest.mark.parametrize("space", SPACES)
def test_a_heic_photo_with_a_profile_shows_its_colors(space: str, heic_pixels: Image.Image) -> None:
    """The stored values are equal and mean the colors of the profile (this needs no encoder)."""
    convert, profile = SPACES[space]
    image = read_photo(io.BytesIO(put_profile_into_heic(profile)))
    assert difference(convert(image), heic_pixels) < 2
    assert difference(image, heic_pixels) > 0.4


def test_a_heic_photo_that_only_names_its_primaries_shows_its_colors(
    heic_pixels: Image.Image, tmp_path: Path
) -> None:
    start = HEIC.index(b"nclx") + 4
    path = tmp_path / "photo.heic"
    path.write_bytes(HEIC[:start] + b"\0\x0c" + HEIC[start + 2 :])  # 12: Display P3
    assert difference(to_p3(read_photo(path)), heic_pixels) < 2
    assert read_preview(path).notes == (color.ASSUMED_PRIMARIES,)
    path.write_bytes(HEIC[: start + 2] + b"\0\x10" + HEIC[start + 4 :])  # 16: PQ
    assert read_preview(path).notes == (color.HDR,)


def test_a_photo_that_only_exif_marks_as_adobe_rgb_shows_its_colors(
    photo: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    path = save(to_adobe(photo), tmp_path / "_DSC.jpg", "JPEG", exif=exif)
    assert difference(read_photo(path), photo) < 2
    assert read_preview(path).notes == (color.ASSUMED_ADOBE,)


def make_grey_profile(gamma: float) -> bytes:
    """Return a grey profile: the RGB profile's parts with one tone curve."""
    content = bytearray(make_rgb_profile(SRGB, D65, (gamma,), "grey"))
    content[16:20] = b"GRAY"
    return bytes(content.replace(b"rTRC", b"kTRC", 1))


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_grey_photo_with_a_profile_shows_its_tones(
    kind: str, photo: Image.Image, tmp_path: Path
) -> None:
    grey = photo.convert("L")
    linear = decode_srgb(np.asarray(grey) / 255)
    stored = Image.fromarray(np.rint(linear ** (1 / 1.3) * 255).astype(np.uint8))
    assert difference(stored, grey) > 5
    path = save(stored, tmp_path / "photo", kind, icc_profile=make_grey_profile(1.3))
    if kind == "WEBP":  # has no grey: the profile is one of another color space
        assert read_preview(path).notes == (color.FOREIGN_PROFILE,)
    else:
        assert difference(read_photo(path), grey) < 2


def test_a_16_bit_grey_scan_with_a_profile_shows_its_tones(
    photo: Image.Image, tmp_path: Path
) -> None:
    linear = decode_srgb(np.asarray(photo.convert("L")) / 255)
    stored = Image.fromarray(np.rint(linear ** (1 / 1.3) * 65535).astype(np.uint16))
    for kind in ("PNG", "TIFF"):
        path = save(stored, tmp_path / "scan", kind, icc_profile=make_grey_profile(1.3))
        assert difference(read_photo(path), photo.convert("L")) < 2


def test_a_cmyk_photo_shows_its_colors(photo: Image.Image, tmp_path: Path) -> None:
    """Without a profile, as Adobe's inverted JPEG and as TIFF."""
    for kind in ("JPEG", "TIFF"):
        path = save(photo.convert("CMYK"), tmp_path / "photo", kind)
        assert difference(read_photo(path), photo) < 2
        assert difference(read_preview(path).image, photo) < 2


def make_cmyk_profile() -> bytes:
    """Return a CMYK profile with a table of 3x3x3x3 colors to Lab: ink is 255 - RGB, without K."""
    grid = np.stack(np.meshgrid(*[np.array([0, 128, 255])] * 4, indexing="ij"), axis=-1)
    ink = grid.reshape(-1, 4).astype(int)
    rgb = ((255 - ink[:, :3]) * (255 - ink[:, 3:]) // 255).astype(np.uint8)[None]
    lab = ImageCms.createProfile("LAB")
    source = ImageCms.createProfile("sRGB")
    table = ImageCms.applyTransform(
        Image.fromarray(rgb), ImageCms.buildTransform(source, lab, "RGB", "LAB")
    )
    values = np.asarray(table)[0].astype(np.uint8)
    values[:, 1:] += 128  # Pillow's a and b are signed, those of a table have an offset
    table_bytes = b"mft1" + bytes(4) + bytes([4, 3, 3, 0])
    table_bytes += b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
    table_bytes += bytes(range(256)) * 4 + values.tobytes() + bytes(range(256)) * 3
    text = b"text" + bytes(4) + b"made\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = {b"desc": desc, b"cprt": text, b"wtpt": white, b"A2B0": table_bytes}
    entries, data, start = b"", b"", 132 + 12 * len(tags)
    for key, content in tags.items():
        entries += key + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4x4s4s4s4s", start + len(data), b"\2\x20\0\0", b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + entries + data


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_cmyk_photo_with_a_profile_shows_its_colors(
    kind: str, photo: Image.Image, tmp_path: Path
) -> None:
    """The profile's table is coarse: three steps of each ink."""
    path = save(photo.convert("CMYK"), tmp_path / "photo", kind, icc_profile=make_cmyk_profile())
    assert read_preview(path).notes == ()
    assert difference(read_photo(path), photo) < 12


@pytest.mark.parametrize(
    "profile", [b"SECRET-PLACE", P3_PROFILE[:200], b"\0" * 500, SRGB_PROFILE[:128] + bytes(400)]
)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_broken_profile_is_ignored_with_a_note(
    kind: str, profile: bytes, photo: Image.Image, tmp_path: Path
) -> None:
    path = save(photo, tmp_path / "photo", kind, icc_profile=profile)
    assert read_preview(path).notes == (color.UNREADABLE_PROFILE,)
    assert difference(read_photo(path), photo) < 2


@settings(max_examples=60)
@given(
    damage=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_a_damaged_profile_never_refuses_a_photo(
    damage: list[tuple[int, int]], photo: Image.Image
) -> None:
    profile = bytearray(P3_PROFILE)
    for offset, byte in damage:
        profile[offset % len(profile)] = byte
    file = io.BytesIO()
    photo.resize((80, 64)).save(file, "PNG", icc_profile=bytes(profile))
    assert read_photo(file).size == (80, 64)


def test_a_profile_of_another_color_space_is_ignored_with_a_note(
    photo: Image.Image, tmp_path: Path
) -> None:
    grey = save(photo.convert("L"), tmp_path / "grey.jpg", "JPEG", icc_profile=P3_PROFILE)
    cmyk = save(photo, tmp_path / "rgb.jpg", "JPEG", icc_profile=make_cmyk_profile())
    for path in (grey, cmyk):
        assert read_preview(path).notes == (color.FOREIGN_PROFILE,)
    assert difference(read_photo(cmyk), photo) < 2


def test_a_profile_equal_to_srgb_changes_no_pixel(photo: Image.Image, tmp_path: Path) -> None:
    path = save(photo, tmp_path / "photo.png", "PNG", icc_profile=SRGB_PROFILE)
    assert read_photo(path).tobytes() == photo.tobytes()


def test_a_profile_is_applied_to_a_palette(photo: Image.Image, tmp_path: Path) -> None:
    palette = to_p3(photo).quantize(256)
    path = save(palette, tmp_path / "photo.png", "PNG", icc_profile=P3_PROFILE)
    assert difference(to_p3(read_photo(path)), palette) < 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(pixels: NDArray[Any], color_type: int, bits: int, *chunks: bytes) -> io.BytesIO:
    """Return a PNG of any kind; pixels are packed rows of bytes."""
    height, row_bytes = pixels.shape
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    width = row_bytes * 8 // (channels * bits)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + tail)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")]
)
def test_transparency_is_white(kind: str, mode: str, photo: Image.Image, tmp_path: Path) -> None:
    alpha = Image.linear_gradient("L").resize(photo.size)
    stored = photo.convert(mode)
    stored.putalpha(alpha)
    path = save(stored, tmp_path / "logo", kind, **({"exact": True} if kind == "WEBP" else {}))
    expected = on_white(photo.convert(mode[:-1]).convert("RGB"), alpha)
    assert difference(stored.convert("RGB"), expected) > 30
    assert difference(read_photo(path), expected) < 1
    assert difference(read_preview(path).image, expected) < 1


def test_transparency_in_a_photo_with_a_profile_is_white(
    photo: Image.Image, tmp_path: Path
) -> None:
    alpha = Image.new("L", photo.size, 255)
    alpha.paste(0, (0, 0, 160, 256))
    stored = to_p3(photo)
    stored.putalpha(alpha)
    path = save(stored, tmp_path / "a.png", "PNG", icc_profile=P3_PROFILE)
    assert difference(read_photo(path), on_white(photo, alpha)) < 1


def test_a_transparent_palette_entry_is_white(photo: Image.Image, tmp_path: Path) -> None:
    stored = photo.quantize(16)
    expected = np.asarray(stored.convert("RGB")).copy()
    expected[np.asarray(stored) == 3] = 255
    for transparency in (3, bytes([255, 255, 255, 0])):
        path = save(stored, tmp_path / "a.png", "PNG", transparency=transparency)
        assert np.array_equal(np.asarray(read_photo(path)), expected)


RAMP = np.arange(48, dtype=np.uint8)
FIRST_ROW_BY_KIND: dict[str, tuple[io.BytesIO, list[int]]] = {  # red of the first pixels
    "grey of 1 bit": (
        make_png(np.full((4, 1), 0b01010101, np.uint8), 0, 1, chunk(b"tRNS", b"\0\0")),
        [255, 255, 255, 255],
    ),
    "grey of 2 bits": (
        make_png(np.full((4, 1), 0b00011011, np.uint8), 0, 2, chunk(b"tRNS", b"\0\1")),
        [0, 255, 170, 255],
    ),
    "grey of 4 bits": (
        make_png(np.full((4, 2), 0x3A, np.uint8), 0, 4, chunk(b"tRNS", b"\0\x0a")),
        [51, 255, 51, 255],
    ),
    "grey of 8 bits": (
        make_png(RAMP.reshape(4, 12), 0, 8, chunk(b"tRNS", b"\0\2")),
        [0, 1, 255, 3],
    ),
    "grey of 16 bits": (
        make_png(RAMP.reshape(4, 12), 0, 16, chunk(b"tRNS", b"\4\5")),
        [0, 2, 255, 6],
    ),
    "color of 8 bits": (
        make_png(RAMP.reshape(4, 12), 2, 8, chunk(b"tRNS", b"\0\3\0\4\0\5")),
        [0, 255, 6, 9],
    ),
    "color of 16 bits": (
        make_png(RAMP.reshape(2, 24), 2, 16, chunk(b"tRNS", bytes(range(6, 12)))),
        [0, 255, 12, 18],
    ),
}


@pytest.mark.parametrize("kind", FIRST_ROW_BY_KIND)
def test_the_transparent_color_of_a_png_is_white(kind: str) -> None:
    file, reds = FIRST_ROW_BY_KIND[kind]
    assert np.asarray(read_photo(file))[0, :4, 0].tolist() == reds


def test_grey_of_16_bits_with_alpha_is_composed_on_white() -> None:
    grey = np.linspace(0, 65535, 64).astype(np.uint16)
    alpha = np.where(np.arange(64) < 32, 65535, 0).astype(np.uint16)
    pixels = np.stack([grey, alpha], axis=-1).astype(">u2").view(np.uint8).reshape(1, -1)
    flat = np.asarray(read_photo(make_png(pixels, 4, 16)))[0, :, 0].astype(int)
    assert np.abs(flat[:32] - grey[:32] / 257).max() <= 1
    assert (flat[32:] == 255).all()


def test_color_of_16_bits_keeps_its_tones(photo: Image.Image) -> None:
    values = (np.asarray(photo).astype(np.uint16) * 257).astype(">u2")
    file = make_png(values.view(np.uint8).reshape(256, -1), 2, 16)
    assert np.abs(np.asarray(read_photo(file), int) - np.asarray(photo, int)).max() <= 1
