"""Copies are grouped and other photos are not; both rates are asserted on rendered scenes."""

import io

import numpy as np
import pytest
from PIL import Image

from mondrian.data.near_duplicates import (
    THUMBNAIL_SIDE,
    cluster_thumbnails,
    compute_phashes,
    make_thumbnail,
)
from mondrian.sample.scene import draw_scene, render

BITS, SIMILARITY = 22, 0.82  # as in params.yaml


def group(images: list[Image.Image]) -> list[int]:
    pixels = np.frombuffer(b"".join(map(make_thumbnail, images)), np.uint8)
    return cluster_thumbnails(pixels.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), BITS, SIMILARITY)


def save_as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, left: float, top: float, right: float, low: float) -> Image.Image:
    w, h = image.size
    return image.crop(
        (round(left * w), round(top * h), round((1 - right) * w), round((1 - low) * h))
    )


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render(draw_scene(7, i), 480, 384) for i in range(60)]


@pytest.mark.parametrize("turns", range(4))
def test_the_hash_of_each_rotation_is_that_of_the_rotated_image(
    scenes: list[Image.Image], turns: int
) -> None:
    pixels = np.frombuffer(make_thumbnail(scenes[0]), np.uint8).reshape(
        1, THUMBNAIL_SIDE, THUMBNAIL_SIDE
    )
    rotated = np.rot90(pixels, turns, axes=(1, 2))
    assert compute_phashes(rotated)[0, 0] == compute_phashes(pixels)[0, turns]


def test_copies_of_every_kind_are_grouped(scenes: list[Image.Image]) -> None:
    original = scenes[0]
    copies = [
        save_as_jpeg(original, 35),
        original.resize((200, 160)),
        original.convert("L").convert("RGB"),
        *(original.transpose(Image.Transpose(turns)) for turns in (2, 3, 4)),
        crop(original, 0.03, 0.0, 0.03, 0.03),
        crop(original, 0.0, 0.06, 0.05, 0.0),
        save_as_jpeg(crop(original, 0.02, 0.02, 0.02, 0.02).resize((300, 240)), 60),
    ]
    assert len(set(group([original, *copies, *scenes[1:]])[: 1 + len(copies)])) == 1


def test_lightly_cropped_copies_are_grouped_and_different_scenes_are_not(
    scenes: list[Image.Image],
) -> None:
    rng = np.random.default_rng(1)
    edges = [(*rng.dirichlet([1, 1]) * 0.06, *rng.dirichlet([1, 1]) * 0.06) for _ in scenes]
    copies = [
        save_as_jpeg(crop(scene, a, c, b, d), 60)
        for scene, (a, b, c, d) in zip(scenes, edges, strict=True)
    ]
    groups = group(scenes + copies)
    is_grouped = [a == b for a, b in zip(groups, groups[len(scenes) :], strict=False)]
    assert all(is_grouped)
    assert len(set(groups)) == len(scenes)


def test_without_photos_there_are_no_groups() -> None:
    assert group([]) == []
