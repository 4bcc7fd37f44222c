"""Copies are found, other photographs are not: both rates are asserted on rendered scenes."""

import io

import numpy as np
import pytest
from PIL import Image

from mondrian.data.near_duplicates import SIDE, cluster_thumbnails, compute_phashes, make_thumbnail
from mondrian.sample.scene import draw_scene, render

BITS, LIKENESS = 22, 0.82  # as in params.yaml


def groups(pictures: list[Image.Image]) -> list[int]:
    pixels = np.frombuffer(b"".join(map(make_thumbnail, pictures)), np.uint8)
    return cluster_thumbnails(pixels.reshape(-1, SIDE, SIDE), BITS, LIKENESS)


def saved(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(picture: Image.Image, left: float, top: float, right: float, low: float) -> Image.Image:
    w, h = picture.size
    return picture.crop(
        (round(left * w), round(top * h), round((1 - right) * w), round((1 - low) * h))
    )


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(draw_scene(7, i), 480, 384) for i in range(60)]


@pytest.mark.parametrize("turn", range(4))
def test_the_hash_of_each_turn_is_that_of_the_turned_picture(
    scenes: list[Image.Image], turn: int
) -> None:
    pixels = np.frombuffer(make_thumbnail(scenes[0]), np.uint8).reshape(1, SIDE, SIDE)
    turned = np.rot90(pixels, turn, axes=(1, 2))
    assert compute_phashes(turned)[0, 0] == compute_phashes(pixels)[0, turn]


def test_copies_are_found_however_they_were_made(scenes: list[Image.Image]) -> None:
    one = scenes[0]
    copies = [
        saved(one, 35),
        one.resize((200, 160)),
        one.convert("L").convert("RGB"),
        *(one.transpose(Image.Transpose(turn)) for turn in (2, 3, 4)),
        cropped(one, 0.03, 0.0, 0.03, 0.03),
        cropped(one, 0.0, 0.06, 0.05, 0.0),
        saved(cropped(one, 0.02, 0.02, 0.02, 0.02).resize((300, 240)), 60),
    ]
    assert len(set(groups([one, *copies, *scenes[1:]])[: 1 + len(copies)])) == 1


def test_lightly_cropped_copies_are_found_and_different_scenes_are_not_merged(
    scenes: list[Image.Image],
) -> None:
    rng = np.random.default_rng(1)
    edges = [(*rng.dirichlet([1, 1]) * 0.06, *rng.dirichlet([1, 1]) * 0.06) for _ in scenes]
    copies = [
        saved(cropped(scene, a, c, b, d), 60)
        for scene, (a, b, c, d) in zip(scenes, edges, strict=True)
    ]
    found = groups(scenes + copies)
    together = [a == b for a, b in zip(found, found[len(scenes) :], strict=False)]
    assert all(together)
    assert len(set(found)) == len(scenes)


def test_no_photograph_is_no_group() -> None:
    assert groups([]) == []
