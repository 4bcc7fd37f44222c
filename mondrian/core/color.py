"""From the pixels of any mode to 8-bit sRGB: profiles applied, transparency on white.

The order: 8 bits, transparency, reduction (for a preview), profile. Composition is done with the
photo's own values; white is white in every profile, by relative colorimetry.
"""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageFile

from mondrian.core import tiff_pages
from mondrian.core.errors import PhotoError
from mondrian.core.icc_profile import ADOBE_GAMMA, ADOBE_RGB, D65, SRGB_CURVE, make_rgb_profile

UNREADABLE_PROFILE = "color profile unreadable: ignored"
FOREIGN_PROFILE = "color profile of another color space: ignored"
ASSUMED_ADOBE = "Adobe RGB by its EXIF, without a profile"
ASSUMED_PRIMARIES = "colors by the primaries that the HEIF file names, without a profile"
HDR = "HDR tone curve (PQ or HLG): not converted"

_MAX_PROFILE_BYTES = 2**24
_EQUAL = 2  # of 255: a profile that changes no color by more is taken as sRGB
_MIN_RANGE = 64  # of 255, between black and white of a profile that makes sense
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's mode -> the name in a profile
_SIMPLE_MODES = {"1": "L", "RGBa": "RGBA", "La": "LA", "YCbCr": "RGB", "RGBX": "RGB", "HSV": "RGB"}
_EXIF_IFD, _INTEROP_IFD, _COLOR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_UNCALIBRATED = 0xFFFF
_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273
_SRGB_PRIMARIES, _UNSPECIFIED = 1, 2


def to_srgb(file: Image.Image, min_side: int = 0) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the pixels of an opened photo as 8-bit sRGB without metadata, and notes.

    min_side  reduce the image by a whole number, to sides of at least that; 0 keeps its size
    """
    key = _transparent_color(file)
    file.load()  # some formats know their size and profile only now
    profile, notes = find_profile(file)
    image = _flatten(_to_eight_bits(file, key))
    if min_side and (factor := min(image.size) // min_side) > 1:
        image = image.reduce(factor)
    image, profile_notes = _apply_profile(image, profile)
    image.info.clear()
    return image, notes + profile_notes


def find_profile(file: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the profile of a photo, or one made from the color space that its metadata names."""
    if "icc_profile" in file.info:
        content = file.info["icc_profile"]
        if content:
            return content, ()
        return None, (UNREADABLE_PROFILE,) if content is None else ()
    if nclx := file.info.get("nclx_profile"):
        return _profile_of_nclx(nclx)
    if file.format in ("JPEG", "MPO") and _is_adobe_rgb(file):
        return make_rgb_profile(ADOBE_RGB, D65, ADOBE_GAMMA, "Adobe RGB"), (ASSUMED_ADOBE,)
    return None, ()


def _is_adobe_rgb(file: Image.Image) -> bool:
    """Return True for the mark of a camera that is set to Adobe RGB (DCF 2.0, 3.4)."""
    try:
        exif = file.getexif()
        space = exif.get_ifd(_EXIF_IFD).get(_COLOR_SPACE)
        index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX, "")
        return space == _UNCALIBRATED and str(index).startswith("R03")
    except Exception:  # EXIF readers raise anything on damaged data
        return False


def _profile_of_nclx(nclx: dict[str, float]) -> tuple[bytes | None, tuple[str, ...]]:
    """Return a profile of the primaries that a HEIF file names by number (ITU-T H.273)."""
    if nclx["transfer_characteristics"] in (_PQ, _HLG):
        return None, (HDR,)
    if nclx["color_primaries"] in (_SRGB_PRIMARIES, _UNSPECIFIED):
        return None, ()
    red, green, blue, white = (
        (nclx[f"color_primary_{name}_x"], nclx[f"color_primary_{name}_y"])
        for name in ("red", "green", "blue", "white")
    )
    try:
        profile = make_rgb_profile((red, green, blue), white, SRGB_CURVE, "nclx")
    except (ArithmeticError, ValueError, np.linalg.LinAlgError):  # primaries on one line, zeros
        return None, (UNREADABLE_PROFILE,)
    return profile, (ASSUMED_PRIMARIES,)


def _transparent_color(file: Image.Image) -> int | tuple[int, ...] | None:
    """Return the one transparent color of a PNG without alpha, in values of its decoded pixels.

    The PNG's tRNS chunk has it in the file's own bits (PNG 11.3.1.1); to be called before `load`.
    """
    key = file.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    tiles = file.tile if isinstance(file, ImageFile.ImageFile) else ()
    raw_mode = str(tiles[0].args) if tiles else ""
    if raw_mode in ("L;2", "L;4") and isinstance(key, int):
        return key * {"L;2": 85, "L;4": 17}[raw_mode]
    if raw_mode == "RGB;16B" and isinstance(key, tuple):
        return tuple(value >> 8 for value in key)
    return key


def _to_eight_bits(image: Image.Image, key: int | tuple[int, ...] | None) -> Image.Image:
    """Return an image of mode L, LA, RGB, RGBA, CMYK or LAB; pixels of color `key` are transparent.

    Raises PhotoError for pixels of 32 bits.
    """
    if image.mode in ("I", "F"):
        detail = "pixels of 32 bits, whose white is not defined; export it with 8 or 16 bits"
        raise PhotoError("image_unreadable", detail)
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode.startswith("I;16"):
        eight_bits = _scale_16_bits(image)
    elif image.mode in _SIMPLE_MODES:
        image.info.pop("transparency", None)
        eight_bits = image.convert(_SIMPLE_MODES[image.mode])
    else:
        eight_bits = image
    if key is None or eight_bits.mode not in ("L", "RGB"):
        return eight_bits
    is_key = np.asarray(image if image.mode.startswith("I;16") else eight_bits) == np.asarray(key)
    visible = ~(is_key.all(axis=-1) if is_key.ndim == 3 else is_key)
    alpha = Image.fromarray(visible.astype(np.uint8) * 255)
    return Image.merge(eight_bits.mode + "A", (*eight_bits.split(), alpha))


def _scale_16_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 12 or 16 bits to 8: Pillow's own conversion would clip it to white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(tiff_pages.BITS, (16,))[0]
    table = np.rint(np.arange(2**16) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    if tags.get(tiff_pages.PHOTOMETRIC) == 0:  # 0 is white, which Pillow inverts in 8 bits only
        table = 255 - table
    return Image.fromarray(table[np.asarray(image)])


def _flatten(image: Image.Image) -> Image.Image:
    """Composite a transparent image on white."""
    if image.mode not in ("LA", "RGBA"):
        return image
    opaque = image.convert(image.mode[:-1])
    opaque.info.clear()
    flat = Image.new(opaque.mode, image.size, "white")
    flat.paste(opaque, mask=image.getchannel("A"))
    return flat


def _apply_profile(
    image: Image.Image, profile: bytes | None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert to sRGB once; without a usable profile as Pillow does."""
    if image.mode == "LAB":  # its values are colors by themselves
        return _apply(image, _lab_transform()), ()
    notes: tuple[str, ...] = ()
    if profile is not None:
        try:
            transform = _make_transform(profile, image.mode)
        except _ForeignProfileError:
            notes = (FOREIGN_PROFILE,)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes = (UNREADABLE_PROFILE,)
        else:
            if transform is not None:
                return _apply(image, transform), ()
    return image.convert("RGB"), notes


class _ForeignProfileError(ValueError):
    """The profile is for images of other channels."""


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    result = Image.new("RGB", image.size)
    transform.apply(image, result)
    return result


@lru_cache(maxsize=16)
def _make_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None if it changes nothing visible."""
    if len(profile) > _MAX_PROFILE_BYTES:
        raise ValueError("the profile is too large")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise _ForeignProfileError
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(source, _srgb_profile(), mode, "RGB", intent, flags)
    colors = _test_colors(mode)
    converted = np.asarray(_apply(colors, transform), np.int16)
    expected = np.asarray(colors.convert("RGB"), np.int16)
    if int(converted.max()) - int(converted.min()) < _MIN_RANGE:
        raise ValueError("all colors are one")
    return None if np.abs(converted - expected).max() <= _EQUAL else transform


def _test_colors(mode: str) -> Image.Image:
    """Return a few colors over the whole range of an image's mode."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    steps = np.linspace(0, 255, {1: 64, 3: 6, 4: 4}[channels]).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * channels, indexing="ij"), axis=-1).reshape(-1, channels)
    return Image.frombytes(mode, (len(grid), 1), grid.tobytes())


@lru_cache(maxsize=1)
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb_profile(), "LAB", "RGB")
