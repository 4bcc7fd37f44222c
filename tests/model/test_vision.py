"""This project's vision tower forward compared with mlx-vlm's."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from PIL import Image

from mondrian.model.kernels import gelu
from mondrian.model.vision import extract_features, run_tower
from mondrian.model.vlm import encode_image, encode_images


@pytest.mark.parametrize("grid", [(8, 10), (10, 8), (2, 2), (4, 30)])
def test_vision_features_equal_those_of_mlx_vlm(base_vlm: Any, grid: tuple[int, int]) -> None:
    tower = base_vlm.model.vision_tower
    pixels = mx.random.normal((grid[0] * grid[1], 1536), key=mx.random.key(0))
    pre_merger, merged, deep = run_tower(tower, pixels, grid)
    theirs, levels = tower(pixels, mx.array([[1, *grid]]))
    assert pre_merger.shape == (pixels.shape[0], tower.config.hidden_size)
    assert len(deep) == len(levels) == 2
    for ours, other in zip([merged, *deep], [theirs, *levels], strict=True):
        assert np.abs(np.array(ours) - np.array(other)).max() < 1e-4


def test_features_do_not_depend_on_the_stream(base_vlm: Any, photos: list[Image.Image]) -> None:
    images = [photo.resize((160, 128)) for photo in photos[:3]]
    for features, image in zip(encode_images(base_vlm, images), images, strict=True):
        assert mx.array_equal(features.merged, encode_image(base_vlm, image).merged)
        assert features.pre_merger is None
    assert extract_features(base_vlm.model.vision_tower, []) == []


def test_gelu_equals_mlxs() -> None:
    x = mx.linspace(-12, 12, 1001)
    assert np.abs(np.array(gelu(x)) - np.array(nn.gelu_approx(x))).max() < 1e-6
