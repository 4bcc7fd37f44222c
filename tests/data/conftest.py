from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def source(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """A photo folder with 0.jpg, 1.jpg, …"""
    folder = tmp_path / "source"
    folder.mkdir()
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i}.jpg")
    return folder
