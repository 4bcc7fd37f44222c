import numpy as np
import pytest
from PIL import Image

from mondrian.evaluation.perturbations import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_nearly_the_same_picture_at_the_same_size(
    name: str, photos: list[Image.Image]
) -> None:
    before = photos[0]
    after = VARIANTS[name](before)
    assert after.size == before.size
    assert after.mode == "RGB"
    a, b = (np.asarray(p.resize((32, 32)), np.float32) for p in (before, after))
    assert 0 < np.abs(a - b).mean() < 12
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
