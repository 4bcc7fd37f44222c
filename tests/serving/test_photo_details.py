"""The camera's settings and the histogram of an uploaded photo."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.serving.http.exposure import (
    EXPOSURE_LABELS,
    build_exposure,
    parse_exposure,
    read_exposure,
)
from mondrian.serving.http.histogram import HEIGHT, compute_histogram
from mondrian.serving.http.uploads import UploadStore
from tests.core.odd_photos import encode
from tests.serving.camera_exif import make_exif

SECRETS = ("SN-4711", "LENS-0815", "Jane Doe", "my garden")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_camera_s_settings_are_kept_without_place_and_names(
    tmp_path: Path, photos: list[Image.Image], format: str
) -> None:
    content = encode(photos[0], format, exif=make_exif().tobytes())
    upload = UploadStore(tmp_path, 4096, 20_480, 80).save(content, "a.jpg")
    assert parse_exposure(upload.exposure) == {
        "Camera": "NIKON Z 6",
        "Lens": "NIKKOR Z 35mm f/1.8 S",
        "Focal length": "35 mm (53 mm full frame)",
        "Aperture": "f/2.8",
        "Shutter": "1/250 s",
        "ISO": "400",
        "Taken": "2024-05-01 06:30",
    }
    stored = (tmp_path / upload.filename).read_bytes() + upload.exposure.encode()
    assert not any(secret.encode() in stored for secret in SECRETS)
    with Image.open(tmp_path / upload.filename) as file:
        assert not file.getexif()


@pytest.mark.parametrize(
    ("tags", "exposure"),
    [
        ({}, {}),
        ({0x829A: 30.0}, {"shutter": "30 s"}),
        ({0x829A: 0.5, 0x829D: 16}, {"aperture": "f/16", "shutter": "0.5 s"}),
        ({0x829A: 0, 0x829D: 0, 0x8827: 0, 0x920A: 0}, {}),
        ({0x8827: (800, 800)}, {"iso": "800"}),
        ({0x8827: ()}, {}),
        ({0x920A: 50, 0xA405: 50}, {"focal_length": "50 mm"}),
        ({0x010F: "Leica Camera AG", 0x0110: "LEICA Q2"}, {"camera": "LEICA Q2"}),
        ({0x010F: "Apple", 0x0110: "iPhone 15"}, {"camera": "Apple iPhone 15"}),
        ({0x010F: " ", 0xA434: b"\xff\0\x01"}, {"lens": "\ufffd"}),
        ({0x9003: "0000:00:00 00:00:00"}, {}),
    ],
)
def test_values_that_make_no_sense_are_left_out(
    tags: dict[int, Any], exposure: dict[str, str]
) -> None:
    assert json.loads(build_exposure(tags) or "{}") == exposure


_NUMBERS = st.floats() | st.integers() | st.fractions()
_VALUES = _NUMBERS | st.text() | st.binary() | st.lists(_NUMBERS, max_size=2).map(tuple) | st.none()
_TAGS = (0x010F, 0x0110, 0xA434, 0x9003, 0x829A, 0x829D, 0x8827, 0x920A, 0xA405)


@given(st.dictionaries(st.sampled_from(_TAGS), _VALUES))
def test_any_tags_give_short_texts(tags: dict[int, Any]) -> None:
    exposure = json.loads(build_exposure(tags) or "{}")
    assert set(exposure) <= set(EXPOSURE_LABELS)
    for text in exposure.values():
        assert 0 < len(text) <= 80
        assert text.isprintable()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_exif_does_not_stop_an_upload(data: st.DataObject) -> None:
    exif = bytearray(make_exif().tobytes())
    for _ in range(data.draw(st.integers(1, 8))):
        exif[data.draw(st.integers(0, len(exif) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(exif[: data.draw(st.integers(0, len(exif)))])
    content = BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG", exif=damaged)
    for label, text in parse_exposure(read_exposure(content)).items():
        assert label in EXPOSURE_LABELS.values()
        assert len(text) <= 80


@given(st.text() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_any_column_can_be_parsed(text: str) -> None:
    assert parse_exposure(text) == {}


def test_long_values_of_another_program_are_cut() -> None:
    assert parse_exposure('{"camera": "' + "x" * 999 + '", "iso": 1}') == {"Camera": "x" * 80}


def test_a_histogram_has_a_share_of_clipped_shadows_and_highlights() -> None:
    levels = np.full((100, 100, 3), 128, np.uint8)
    levels[:10] = 0
    levels[-5:] = (255, 200, 100)  # one clipped channel is enough
    histogram = compute_histogram(Image.fromarray(levels))
    assert (histogram.shadows, histogram.highlights) == (0.1, 0.05)
    assert histogram.marks_shadows
    assert histogram.marks_highlights
    gray = compute_histogram(Image.fromarray(np.full((64, 64, 3), 128, np.uint8)))
    assert not gray.marks_shadows
    assert not gray.marks_highlights


def test_an_outline_is_high_where_the_tones_are() -> None:
    ramp = np.repeat(np.arange(64, 128, dtype=np.uint8), 64).reshape(64, 64)
    luminance, red, green, blue = compute_histogram(Image.fromarray(ramp).convert("RGB")).outlines
    assert luminance == red == green == blue
    heights = [HEIGHT - float(point.split(",")[1]) for point in luminance.split()][1:-1]
    assert len(heights) == 256
    assert min(heights[64:128]) > HEIGHT / 2
    assert max(heights[:64] + heights[128:]) == 0
