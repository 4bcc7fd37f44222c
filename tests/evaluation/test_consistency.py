import numpy as np
import pytest
from PIL import Image

from mondrian.evaluation.consistency import PERTURBATIONS


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbed_photo_is_nearly_the_same_at_the_same_size(
    name: str, photos: list[Image.Image]
) -> None:
    perturbed = PERTURBATIONS[name](photos[0])
    assert perturbed.size == photos[0].size
    assert perturbed.mode == "RGB"
    a, b = (np.asarray(image.resize((32, 32)), np.float32) for image in (photos[0], perturbed))
    assert 0 < np.abs(a - b).mean() < 12
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9
