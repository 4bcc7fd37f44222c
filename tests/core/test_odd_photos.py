"""Every odd file is read at its size or rejected with its reason, alike by link and service."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.core import photo_header
from mondrian.core.errors import PhotoError
from mondrian.core.images import read_photo, read_preview, read_thumbnail
from mondrian.core.photo_header import MAX_SCANS, read_header
from tests.core import odd_photos
from tests.core.odd_photos import PHOTO, UPRIGHT, Expected

FILES = {name: (content, expected) for name, content, expected in odd_photos.odd_photos()}


def outcome(read: Callable[[Any], Image.Image], source: Any) -> Expected:
    """Return the size of the image, or the reason of the error."""
    try:
        image = read(source)
    except PhotoError as error:
        return error.reason if str(error) and "\n" not in str(error) else f"unclear: {error!r}"
    assert (image.mode, image.info) == ("RGB", {})
    return image.size


@pytest.mark.parametrize("name", FILES)
def test_an_odd_file_has_its_size_or_its_reason(name: str, tmp_path: Path) -> None:
    content, expected = FILES[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert outcome(read_photo, io.BytesIO(content)) == expected
    assert outcome(read_photo, path) == expected
    preview = outcome(lambda source: read_preview(source).image, path)
    thumbnail = outcome(lambda source: read_thumbnail(source, 48), path)
    if isinstance(expected, tuple):
        assert preview == (expected if expected != (640, 512) else (320, 256))
        assert max(thumbnail) == 48
    else:
        assert preview == thumbnail == expected


@settings(max_examples=200)
@given(st.data())
def test_a_changed_file_is_an_image_or_a_reason(data: st.DataObject) -> None:
    """Of each odd file, with other bytes in its header and cut somewhere."""
    content = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))][0][:60_000])
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            offset = data.draw(st.integers(0, min(400, len(content) - 1)))
            content[offset] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content) // 2, 40]))
    source = io.BytesIO(bytes(content[:cut]))
    header = None
    with contextlib.suppress(PhotoError):
        header = read_header(source)
    if header is None:
        return
    assert header.scans <= MAX_SCANS
    if header.format != "HEIF":  # its decoder runs in a process of its own
        with contextlib.suppress(PhotoError):
            assert read_photo(source, 2_000_000).mode == "RGB"


def test_the_odd_files_are_many_and_of_all_reasons() -> None:
    assert len(FILES) == len(odd_photos.odd_photos()) >= 80
    reasons = {expected for _, expected in FILES.values() if isinstance(expected, str)}
    assert reasons == {"image_unreadable", "image_raw", "image_too_large"}


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("a GIF", "a GIF, not one of JPEG"),
        ("a AVIF", "an AVIF image, not one of"),
        ("a web page", "a web page, not one of"),
        ("zeros", "a file of zeros"),
        ("a DNG", "DNG file; export it as JPEG or TIFF"),
        ("a raw file: CR3", "Canon CR3"),
        ("a JPEG of 2,000 scans", "2,000 scans; at most 64"),
        ("a TIFF of floats, order <", "1 floating-point samples of 32 bits"),
        ("a TIFF of Lab of 16 bits, order <", "3 samples of 16 bits .photometric 8"),
        ("a PNG of 30,000 x 30,000", "30000x30000 pixels declared; at most 200,000,000"),
        ("a WebP header of 16383", "image is missing or cut off"),
    ],
)
def test_a_rejection_says_what_the_file_is(name: str, detail: str) -> None:
    with pytest.raises(PhotoError, match=detail):
        read_photo(io.BytesIO(FILES[name][0]))


def test_nothing_is_decoded_to_refuse_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", fail)
    for name in ("a JPEG of 2,000 scans", "a WebP header of 16383", "a JPEG of 65,000 x 65,000"):
        with pytest.raises(PhotoError):
            read_photo(io.BytesIO(FILES[name][0]))


def test_what_encoders_make_is_far_from_the_limit_of_scans() -> None:
    for mode in ("L", "RGB", "CMYK"):
        content = odd_photos.encode(PHOTO.convert(mode), "JPEG", progressive=True)
        assert 1 < read_header(io.BytesIO(content)).scans <= MAX_SCANS / 3
    assert read_header(io.BytesIO(odd_photos.JPEG)).scans == 1


def test_scans_of_previews_in_a_jpeg_are_not_counted() -> None:
    """A thumbnail before the photo, and a gain map behind it as phones write it."""
    thumbnail = odd_photos.encode(PHOTO.resize((64, 64)), "JPEG", progressive=True)
    exif = b"Exif\0\0" + thumbnail
    content = odd_photos.encode(PHOTO, "JPEG", exif=exif) + thumbnail * 30
    assert read_header(io.BytesIO(content)).scans == 1
    assert read_photo(io.BytesIO(content)).size == UPRIGHT


def test_a_file_of_too_many_bytes_is_refused_unread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(photo_header, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "photo.jpg"
    path.write_bytes(odd_photos.JPEG)
    with pytest.raises(PhotoError, match="at most 1,000"):
        read_photo(path)


def test_a_folder_in_place_of_a_photo_has_a_reason(tmp_path: Path) -> None:
    assert outcome(read_photo, tmp_path) == "image_unreadable"
