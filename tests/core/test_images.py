import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.errors import PhotoError
from mondrian.core.images import (
    SIDE_MULTIPLE,
    fit_size,
    read_photo,
    read_preview,
    read_thumbnail,
    resize_to_fit,
)
from tests.core.odd_photos import png_header


def test_exif_orientation_is_applied_and_exif_is_removed(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}  # GPS
    path = tmp_path / "turned.jpg"
    photos[0].transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    upright = read_photo(path)
    assert upright.size == photos[0].size
    assert np.abs(np.asarray(upright, int) - np.asarray(photos[0], int)).mean() < 3
    saved = io.BytesIO()
    upright.save(saved, "PNG")
    assert not Image.open(saved).getexif()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "image_missing"),
        (b"", "image_unreadable"),
        (b"not an image", "image_unreadable"),
        (b"<svg xmlns='x'/>", "image_unreadable"),
        (png_header(30_000, 30_000), "image_too_large"),
        (png_header(900, 900), "image_unreadable"),
    ],
)
def test_a_file_that_is_not_a_photo_has_a_reason(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PhotoError) as error:
        read_photo(path)
    assert error.value.reason == reason


@settings(max_examples=60)
@given(st.integers(2, 700), st.integers(0, 255))
def test_a_damaged_header_gives_an_image_or_a_reason(offset: int, byte: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "sample"
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    saved = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(saved, "JPEG", exif=exif)
    content = bytearray(saved.getvalue())
    content[offset % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(content)
        with contextlib.suppress(PhotoError):
            assert read_photo(path).mode == "RGB"
            read_preview(path)


def test_a_format_that_is_not_allowed_is_rejected(
    tmp_path: Path, photos: list[Image.Image]
) -> None:
    path = tmp_path / "photo.jpg"
    photos[0].save(path, "BMP")
    with pytest.raises(PhotoError, match="not one of JPEG"):
        read_photo(path)


def test_a_16_bit_grey_image_keeps_its_tones(tmp_path: Path, photos: list[Image.Image]) -> None:
    grey = photos[0].convert("L")
    path = tmp_path / "scan.png"
    Image.fromarray(np.asarray(grey, np.uint16) * 257).save(path)
    assert np.abs(np.asarray(read_photo(path).convert("L"), int) - np.asarray(grey, int)).max() <= 1


def test_blank_and_tiny_images_are_rejected(tmp_path: Path) -> None:
    for size, reason in (((640, 512), "image_blank"), ((1, 1), "image_too_small")):
        path = tmp_path / "photo.png"
        Image.new("RGB", size, (200, 20, 20)).save(path)
        with pytest.raises(PhotoError) as error:
            read_preview(path)
        assert error.value.reason == reason


@given(st.integers(64, 9000), st.integers(64, 9000))
def test_every_size_fits_the_budget_in_multiples(width: int, height: int) -> None:
    w, h = fit_size(width, height, 4096, 20_480)
    assert w % SIDE_MULTIPLE == h % SIDE_MULTIPLE == 0
    if max(width, height) < 5 * min(width, height):
        assert 4096 <= w * h <= 20_480


def test_resizing_a_fitted_image_changes_nothing(photos: list[Image.Image]) -> None:
    resized = resize_to_fit(photos[0], 4096, 20_480)
    assert resized.size == (160, 128)
    assert resize_to_fit(resized, 4096, 20_480).tobytes() == resized.tobytes()


def test_a_preview_looks_like_the_full_image(tmp_path: Path, photos: list[Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    large = photos[0].resize((1600, 1280))
    large.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    preview = read_preview(tmp_path / "a.jpg")
    assert preview.size == (1280, 1600)  # as stored
    assert preview.image.size == (400, 320)  # upright
    small, expected = (np.asarray(p.resize((32, 32)), int) for p in (preview.image, large))
    assert np.abs(small - expected).mean() < 2


def test_a_preview_reads_to_the_last_byte(tmp_path: Path, photos: list[Image.Image]) -> None:
    path = tmp_path / "cut.jpg"
    photos[0].resize((1600, 1280)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(PhotoError, match="truncated"):
        read_preview(path)


def test_a_heic_photo_is_read_without_its_location(photos: list[Image.Image]) -> None:
    path = Path(__file__).parent / "rendered.heic"
    with Image.open(path) as file:
        assert file.getexif().get_ifd(0x8825)  # GPS is in it
    image = read_photo(path)
    assert image.size == (640, 512)
    assert not image.getexif()
    assert not image.info
    downscaled = np.asarray(image.resize((320, 256)), float)
    assert np.abs(downscaled - np.asarray(photos[0], float)).mean() < 8
    assert read_preview(path).size == (640, 512)


def test_a_damaged_heic_photo_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "IMG_1.HEIC"
    whole = (Path(__file__).parent / "rendered.heic").read_bytes()
    for content in (b"\x00\x00\x00\x18ftypheic" + b"\x00" * 500, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(PhotoError):
            read_preview(path)


def test_the_pixels_of_a_heic_photo_are_limited_before_it_is_decoded() -> None:
    with pytest.raises(PhotoError, match="640x512 pixels declared; at most 1,000"):
        read_photo(Path(__file__).parent / "rendered.heic", 1000)


def test_a_thumbnail_has_no_metadata(tmp_path: Path, photos: list[Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    photos[0].save(tmp_path / "a.jpg", exif=exif, comment=b"secret")
    saved = io.BytesIO()
    image = read_thumbnail(tmp_path / "a.jpg", 120)
    image.save(saved, "JPEG")
    assert max(image.size) == 120
    assert not Image.open(saved).getexif()
    assert b"secret" not in saved.getvalue()
