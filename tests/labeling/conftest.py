"""A browser, and a folder of photos, for the tests of the pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests import browsing


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.browser() as started:
        yield started


@pytest.fixture
def folder(photos: list[Image.Image], tmp_path: Path) -> Path:
    """Two photos in a folder, one more below it."""
    folder = tmp_path / "my photos"
    (folder / "more").mkdir(parents=True)
    for photo, name in zip(photos, ("a.jpg", "b.jpg", "more/ä c.jpg"), strict=False):
        photo.save(folder / name)
    return folder
