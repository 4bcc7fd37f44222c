"""When a photo was taken, from real EXIF in files of every format, and from damaged EXIF."""

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.capture_time import format_capture_time, parse_capture_time
from mondrian.core.images import read_preview
from tests.data.capturing import make_exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_time_is_read_from_each_format_and_the_place_is_not(
    tmp_path: Path, photos: list[Image.Image], suffix: str
) -> None:
    exif = make_exif("2026:05:03 14:05:09", offset="+02:00", fraction="12")
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})  # latitude
    path = tmp_path / f"photo.{suffix}"
    photos[0].save(path, exif=exif)
    preview = read_preview(path)
    assert preview.captured == "2026-05-03T14:05:09.120000+02:00"
    assert not preview.image.getexif()
    assert "exif" not in preview.image.info


@pytest.mark.parametrize(
    ("time", "offset", "expected"),
    [
        ("2026:05:03 14:05:09", "", "2026-05-03T14:05:09"),
        ("2026-05-03T14:05:09Z", "Z", "2026-05-03T14:05:09+00:00"),
        ("2026:05:03 14:05:09\0\0", "-03:30", "2026-05-03T14:05:09-03:30"),
        ("2026:05:03 14:05:09", "+99:00", "2026-05-03T14:05:09"),
        ("2026:05:03 14:05:09", "+12:99", "2026-05-03T14:05:09"),
        ("2026:05:03 14:05:09", "CEST", "2026-05-03T14:05:09"),
        ("2025:12:31 23:59:59", "", "2025-12-31T23:59:59"),
        ("2026:01:01 00:01:00", "", "2026-01-01T00:01:00"),
    ],
)
def test_a_time_is_stored_with_the_offset_if_that_makes_sense(
    tmp_path: Path, photos: list[Image.Image], time: str, offset: str, expected: str
) -> None:
    photos[0].save(tmp_path / "photo.jpg", exif=make_exif(time, offset))
    assert read_preview(tmp_path / "photo.jpg").captured == expected


@pytest.mark.parametrize(
    "time",
    [
        "",
        "    :  :     :  :  ",
        "0000:00:00 00:00:00",
        "2026:06:31 10:00:00",
        "2026:05:03",
        "yesterday",
        "1904:01:01 00:00:00",
        "1970:01:01 00:00:00",
        "1980:01:01 03:20:11",
        "2000:01:01 00:00:00",
        "2000:01:01 17:44:02",  # hours after the battery was changed
        "2018:01:01 00:00:12",
    ],
)
def test_no_time_and_the_time_of_a_reset_clock_are_unknown(time: str) -> None:
    assert format_capture_time(time) == ""


def test_a_photo_without_exif_has_no_time(tmp_path: Path, photos: list[Image.Image]) -> None:
    photos[0].save(tmp_path / "photo.jpg")
    assert read_preview(tmp_path / "photo.jpg").captured == ""


@given(st.text(), st.text(), st.text())
def test_any_text_gives_a_time_that_can_be_read_again_or_none(
    time: str, offset: str, fraction: str
) -> None:
    text = format_capture_time(time, offset, fraction)
    assert (parse_capture_time(text) is not None) == bool(text)


@given(
    st.datetimes(min_value=datetime(2001, 1, 2), max_value=datetime(2098, 12, 31)),
    st.from_regex(r"[+-][0-9]{2}:[0-9]{2}", fullmatch=True),
    st.from_regex(r"[0-9]{0,9}", fullmatch=True),
)
def test_every_date_is_read(time: datetime, offset: str, fraction: str) -> None:
    text = format_capture_time(f"{time:%Y:%m:%d %H:%M:%S}", offset, fraction)
    stored = parse_capture_time(text)
    if (time.month, time.day, time.hour, time.minute) != (1, 1, 0, 0):
        assert stored is not None
        assert stored.replace(tzinfo=None, microsecond=0) == time.replace(microsecond=0)
