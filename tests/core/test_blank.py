"""Which images are blank: judged on all colors, on lights, and in the dark."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mondrian.core.errors import PhotoError
from mondrian.core.images import check_image, read_photo, read_preview
from mondrian.sample.scene import draw_scene, render

WIDTH, HEIGHT = 900, 600
RED = np.full((HEIGHT, WIDTH, 3), [200.0, 20, 20])
NIGHT = np.abs(np.random.default_rng(1).normal(3, 2, (HEIGHT, WIDTH, 3)))  # a dark sky with noise


def noise(sigma: float) -> np.ndarray:
    return np.random.default_rng(2).normal(0, sigma, (HEIGHT, WIDTH, 3))


def put_lights(count: int, side: int) -> np.ndarray:
    image, random = NIGHT.copy(), np.random.default_rng(3)
    for _ in range(count):
        top, left = random.integers(0, (HEIGHT - side, WIDTH - side))
        image[top : top + side, left : left + side] = [255, 220, 150]
    return image


def halves(left: list[int], right: list[int]) -> np.ndarray:
    image = np.empty((HEIGHT, WIDTH, 3))
    image[:, : WIDTH // 2], image[:, WIDTH // 2 :] = left, right
    return image


def dark_landscape() -> np.ndarray:
    """A landscape at a twentieth of its light: no value over 13."""
    return np.asarray(render(draw_scene(5, 1), WIDTH, HEIGHT)) * 0.05 + np.abs(noise(1))


PICTURES = {
    "lights of a town": put_lights(40, 6),
    "a few lights": put_lights(12, 8),
    "stars": put_lights(600, 2),
    "a moon": put_lights(1, 60),
    "a dark landscape": dark_landscape(),
    "red and green of equal luminance": halves([180, 60, 60], [0, 143, 100]),
    "blue and violet of equal luminance": halves([100, 100, 0], [100, 80, 103]),
    "fog": 180 + 8 * np.sin(np.arange(WIDTH) / 90)[None, :, None] + noise(2),
}
BLANKS = {
    "red": RED,
    "red with noise": RED + noise(6),
    "white": np.full((HEIGHT, WIDTH, 3), 255.0),
    "black": np.zeros((HEIGHT, WIDTH, 3)),
    "paper": 245 + noise(2),
    "a lens cap": np.abs(noise(4)),
    "a lens cap at high sensitivity": np.abs(noise(10)),
    "a wall with a fall of light": 120 + np.linspace(0, 8, WIDTH)[None, :, None] + noise(1),
    "red with a grain of dust": np.where(
        np.indices((HEIGHT, WIDTH)).max(axis=0)[..., None] < 5, 0, RED
    ),
}


@pytest.mark.parametrize("name", [*PICTURES, *BLANKS])
def test_a_picture_is_no_blank_and_a_blank_is_no_picture(name: str, tmp_path: Path) -> None:
    values = {**PICTURES, **BLANKS}[name].clip(0, 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        path = tmp_path / "photo"
        Image.fromarray(values).save(path, kind)
        assert is_blank(path) == (name in BLANKS), kind


def is_blank(path: Path) -> bool:
    """Return what link and service say; they must agree."""
    answers = []
    for check in (read_preview, lambda path: check_image(read_photo(path))):
        try:
            check(path)
            answers.append("")
        except PhotoError as error:
            answers.append(error.reason)
    assert answers in (["", ""], ["image_blank"] * 2), answers
    return answers[0] != ""


def test_a_large_photo_of_the_night_is_no_blank() -> None:
    """A JPEG is decoded at an eighth of its size: lights shrink, and are still there."""
    large = Image.fromarray(put_lights(40, 6).clip(0, 255).astype(np.uint8)).resize((4500, 3000))
    file = io.BytesIO()
    large.save(file, "JPEG")
    check_image(read_photo(file))
