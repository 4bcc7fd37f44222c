"""This project's vision tower forward compared with mlx-vlm's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from PIL import Image

from mondrian.model.kernels import gelu
from mondrian.model.vision import extract_features, run_tower
from mondrian.model.vlm import encode_image, encode_images
from tests.tolerances import by_type, to_numpy


@pytest.mark.device
@pytest.mark.parametrize("grid", [(8, 10), (10, 8), (2, 2), (4, 30)])
def test_vision_features_equal_those_of_mlx_vlm(base_vlm: Any, grid: tuple[int, int]) -> None:
    tower = base_vlm.model.vision_tower
    pixels = mx.random.normal((grid[0] * grid[1], 1536), key=mx.random.key(0))
    pre_merger, merged, deep = run_tower(tower, pixels, grid)
    theirs, levels = tower(pixels.astype(base_vlm.float_type), mx.array([[1, *grid]]))
    assert pre_merger.shape == (pixels.shape[0], tower.config.hidden_size)
    assert len(deep) == len(levels) == 2
    for ours, other in zip([merged, *deep], [theirs, *levels], strict=True):
        assert np.abs(to_numpy(ours) - to_numpy(other)).max() < by_type(1e-4, 0.02, 0.2)


@pytest.mark.device
def test_features_do_not_depend_on_the_stream(base_vlm: Any, photos: list[Image.Image]) -> None:
    images = [photo.resize((160, 128)) for photo in photos[:3]]
    for features, image in zip(encode_images(base_vlm, images), images, strict=True):
        assert mx.array_equal(features.merged, encode_image(base_vlm, image).merged)
        assert features.pre_merger is None
    assert extract_features(base_vlm.model.vision_tower, []) == []


def test_gelu_equals_mlxs() -> None:
    x = mx.linspace(-12, 12, 1001)
    assert np.abs(np.array(gelu(x)) - np.array(nn.gelu_approx(x))).max() < 1e-6


@contextmanager
def rounded_weights(module: Any, float_type: Any) -> Iterator[None]:
    """Round the weights of a module for a while."""
    weights = module.parameters()
    module.update(tree_map(lambda value: value.astype(float_type), weights))
    try:
        yield
    finally:
        module.update(weights)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_features_have_the_type_of_the_language_model(
    base_vlm: Any, photos: list[Image.Image], name: str
) -> None:
    image = photos[0].resize((160, 128))
    with rounded_weights(base_vlm.model, mx.float32):
        exact = encode_image(base_vlm, image)
    with rounded_weights(base_vlm.model, getattr(mx, name)):
        features = encode_image(base_vlm, image)
    assert features.merged.dtype == getattr(mx, name)
    assert 2 * features.nbytes == exact.nbytes
    pairs = zip(
        (features.merged, *features.deepstack), (exact.merged, *exact.deepstack), strict=True
    )
    for rounded, reference in pairs:
        difference = np.abs(np.array(rounded.astype(mx.float32)) - np.array(reference)).max()
        assert 0 < difference < 2**-6 * np.abs(np.array(reference)).max()  # bfloat16 has 8 bits


def test_features_have_the_language_models_type_if_the_tower_has_another(
    base_vlm: Any, photos: list[Image.Image]
) -> None:
    model, image = base_vlm.model, photos[0].resize((160, 128))
    with (
        rounded_weights(model.vision_tower, mx.float32),
        rounded_weights(model.language_model, mx.bfloat16),
    ):
        features = encode_image(base_vlm, image, with_pre_merger=True)
    assert {a.dtype for a in (features.merged, *features.deepstack)} == {mx.bfloat16}
    assert features.pre_merger is not None
    assert features.pre_merger.dtype == mx.float32  # the merger computes in the tower's type
