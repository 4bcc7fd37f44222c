"""Files of the sample's photos, as cameras and phones store them, and copies that people make."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from mondrian.core.icc_profile import D65, SRGB_CURVE, Primaries, make_rgb_profile
from mondrian.sample.scene import draw_scene, render

NUM_PHOTOS = 200
FOLDERS = {11: "2023", 23: "2024", 71: "2023", 83: "2024"}  # of photos with names that others have
COPIES: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda image: ImageOps.expand(image, image.width // 12, "white"),
    lambda image: image.transpose(Image.Transpose.ROTATE_90),
    ImageOps.mirror,
    lambda image: image.crop((0, 0, image.width * 9 // 10, image.height)),
)
_DISPLAY_P3_PHOTOS = range(7, NUM_PHOTOS, 12)
_DISPLAY_P3: Primaries = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_ORIENTATION, _DNG_VERSION = 0x0112, 0xC612  # tags of EXIF and TIFF
_ROTATIONS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}  # by orientation


def write_photo(task: tuple[int, int, Path]) -> None:
    """Write the photo of (seed, number, path): some rotated, some in Display P3."""
    seed, photo, path = task
    image = render(draw_scene(seed, photo))
    exif, profile = Image.Exif(), None
    if photo in _DISPLAY_P3_PHOTOS:
        image, profile = _convert_to_display_p3(image)
    orientation = {0: 3, 5: 6}.get(photo % 10)  # two in ten are stored rotated
    if orientation:
        image = image.transpose(_ROTATIONS[orientation])
        exif[_ORIENTATION] = orientation
    image.save(path, quality=90, exif=exif, icc_profile=profile)


def write_copy(photo: Path, copy: Path, kind: int) -> None:
    """Write a changed copy of a photo, re-encoded and without EXIF; kind is an index of COPIES."""
    with Image.open(photo) as image:
        COPIES[kind % len(COPIES)](image).save(copy, quality=70)


def write_raw(photo: Path, raw: Path) -> None:
    """Write a photo as a TIFF that declares to be a DNG."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[_DNG_VERSION] = b"\1\4\0\0"
    with Image.open(photo) as image:
        image.save(raw, "TIFF", tiffinfo=directory)


def _convert_to_display_p3(image: Image.Image) -> tuple[Image.Image, bytes]:
    profile = make_rgb_profile(_DISPLAY_P3, D65, SRGB_CURVE, "Display P3")
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    assert converted is not None
    return converted, profile
