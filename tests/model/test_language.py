"""This project's forward compared with mlx-vlm's."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import mondrian.model.cpu.openblas
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.model.language import (
    compute_logits,
    compute_mrope_positions,
    hidden_states,
    make_batch,
)
from mondrian.model.vlm import encode_image, tokenize_prompt
from tests.tolerances import by_type, max_error

PERSONA = "You are an editor. You love calm water and fine detail more than bold color."


def is_close(a: Any, b: Any, tolerance: float) -> bool:
    """Compare with `tolerance`, absolute and relative."""
    return np.allclose(np.array(a), np.array(b), rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    mx.random.seed(0)


@pytest.mark.device
@pytest.mark.parametrize("size", [(160, 128), (128, 160), (96, 192)])
def test_logits_equal_those_of_mlx_vlm(
    base_vlm: Any, photos: list[Image.Image], size: tuple[int, int]
) -> None:
    image = photos[0].resize(size)
    features = encode_image(base_vlm, image)
    messages = build_row_messages(PERSONA, "")[:-1]
    ids = tokenize_prompt(base_vlm, messages, features)
    ids += base_vlm.tokenizer.tokenize_completion('{"image_description": "A')[0]
    batch = make_batch([ids], [features], base_vlm.image_id)
    ours = compute_logits(base_vlm.model, hidden_states(base_vlm.model, batch))
    pixels = base_vlm.processor.image_processor([image])
    theirs = base_vlm.model(
        mx.array([ids]),
        mx.array(np.array(pixels["pixel_values"])),
        image_grid_thw=mx.array(np.array(pixels["image_grid_thw"])),
    ).logits
    assert max_error(ours, theirs) < by_type(1e-4, 0.02, 0.1)


@pytest.mark.device
def test_a_row_in_a_batch_equals_the_row_on_its_own(
    base_vlm: Any, photos: list[Image.Image]
) -> None:
    images = [resize_to_fit(photos[0], 4096, 20_480), photos[1].resize((96, 192))]
    features = [encode_image(base_vlm, image) for image in images]
    messages = build_row_messages(PERSONA, "")[:-1]
    rows = [
        tokenize_prompt(base_vlm, messages, f) + [5] * k
        for f, k in zip(features, (3, 9), strict=True)
    ]
    batched = hidden_states(base_vlm.model, make_batch(rows, features, base_vlm.image_id))
    for i, (row, f) in enumerate(zip(rows, features, strict=True)):
        single = hidden_states(base_vlm.model, make_batch([row], [f], base_vlm.image_id))
        error = max_error(batched[i, : len(row)], single[0])
        assert error < by_type(1e-4, 0.02, 0.1)


@pytest.mark.device
def test_another_photo_gives_other_logits(base_vlm: Any, photos: list[Image.Image]) -> None:
    messages = build_row_messages(PERSONA, "")[:-1]
    features = [encode_image(base_vlm, resize_to_fit(p, 4096, 20_480)) for p in photos[:2]]
    rows = [tokenize_prompt(base_vlm, messages, f) for f in features]
    h = hidden_states(base_vlm.model, make_batch(rows, features, base_vlm.image_id))
    assert rows[0] == rows[1]
    assert max_error(h[0, -1], h[1, -1]) > by_type(1e-4, 0.02, 0.1)


def test_positions_count_rows_and_columns_inside_an_image() -> None:
    p = compute_mrope_positions(10, 2, (2, 3))
    assert p[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
    assert p[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    assert p[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_greedy_text_equals_that_of_mlx_vlm(base_vlm: Any, photos: list[Image.Image]) -> None:
    from mlx_vlm import stream_generate

    image = resize_to_fit(photos[2], 4096, 20_480)
    features = encode_image(base_vlm, image)
    ids = tokenize_prompt(base_vlm, build_row_messages(PERSONA, "")[:-1], features)
    pixels = base_vlm.processor.image_processor([image])
    tokens = [
        int(chunk.token)
        for chunk in stream_generate(
            base_vlm.model,
            base_vlm.processor,
            "",
            input_ids=mx.array([ids]),
            pixel_values=mx.array(np.array(pixels["pixel_values"])),
            mask=None,
            image_grid_thw=mx.array(np.array(pixels["image_grid_thw"])),
            max_tokens=120,
            temperature=0.0,
        )
        if chunk.token is not None and chunk.token not in base_vlm.end_ids
    ]
    ours = generate(base_vlm, [ids], [features], SamplingParams(120))[0]
    assert len(tokens) > 50
    assert ours.text == base_vlm.processor.tokenizer.decode(tokens[:120], skip_special_tokens=True)


def test_the_fast_blas_is_bound() -> None:
    assert mondrian.model.cpu.openblas.HAS_FAST_BLAS
