"""This project's forward and CPU kernels compared with mlx-vlm's and MLX's."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_vlm.models.base import scaled_dot_product_attention
from PIL import Image

import mondrian.model.cpu.openblas
from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.model import kernels
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.cpu import kernels as cpu_kernels
from mondrian.model.generate import generate
from mondrian.model.language import (
    compute_logits,
    compute_mrope_positions,
    hidden_states,
    make_batch,
)
from mondrian.model.vlm import encode_image, tokenize_prompt

PERSONA = "You are an editor. You love calm water and fine detail more than bold color."


def is_close(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    """Compare with `tolerance`, absolute and relative."""
    return np.allclose(np.array(a), np.array(b), rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    mx.random.seed(0)


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
    assert is_close(ours, theirs)


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
        assert is_close(batched[i, : len(row)], single[0])


def test_another_photo_gives_other_logits(base_vlm: Any, photos: list[Image.Image]) -> None:
    messages = build_row_messages(PERSONA, "")[:-1]
    features = [encode_image(base_vlm, resize_to_fit(p, 4096, 20_480)) for p in photos[:2]]
    rows = [tokenize_prompt(base_vlm, messages, f) for f in features]
    h = hidden_states(base_vlm.model, make_batch(rows, features, base_vlm.image_id))
    assert rows[0] == rows[1]
    assert not is_close(h[0, -1], h[1, -1])


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


def test_cpu_softmax_and_its_gradient_equal_mlxs() -> None:
    x = mx.random.normal((3, 5, 40)) * 8
    weight = mx.random.normal(x.shape)
    both: Any = (cpu_kernels.softmax, lambda s: mx.softmax(s, axis=-1))
    ours, plain = (f(x) for f in both)
    assert is_close(ours, plain, 1e-6)
    ours, plain = (mx.grad(lambda s, f=f: (f(s) * weight).sum())(x) for f in both)
    assert is_close(ours, plain, 1e-5)


@pytest.mark.parametrize("rows", [4, 400])  # a small array, and a large one
def test_cpu_swiglu_and_its_gradient_equal_mlxs(rows: int) -> None:
    gate, x = mx.random.normal((2, rows, 100)) * 6
    assert (gate.size < cpu_kernels.SMALL_ARRAY_SIZE) == (rows == 4)

    def plain(g: mx.array, y: mx.array) -> mx.array:
        return nn.silu(g) * y

    assert is_close(cpu_kernels.swiglu(gate, x), plain(gate, x), 1e-5)
    for argument in (0, 1):
        ours, theirs = (
            mx.grad(lambda g, y, f=f: f(g, y).sum(), argnums=argument)(gate, x)
            for f in (cpu_kernels.swiglu, plain)
        )
        assert is_close(ours, theirs, 1e-4)


def test_cpu_cross_entropy_and_its_gradient_equal_mlxs() -> None:
    logits, weight = 9 * mx.random.normal((3, 7, 50)), mx.random.normal((3, 7))
    targets = mx.random.randint(0, 50, (3, 7))
    both = (cpu_kernels.cross_entropy, nn.losses.cross_entropy)
    ours, plain = (f(logits, targets) for f in both)
    assert is_close(ours, plain, 1e-5)
    ours, plain = (mx.grad(lambda x, f=f: (f(x, targets) * weight).sum())(logits) for f in both)
    assert is_close(ours, plain, 1e-5)


@pytest.mark.parametrize(("past", "length"), [(0, 1), (0, 500), (37, 1), (999, 1), (37, 300)])
def test_cpu_attention_equals_mlxs(past: int, length: int) -> None:
    q = mx.random.normal((2, 4, length, 16))
    k, v = mx.random.normal((2, 2, 2, past + length, 16))
    mask: Any = "causal" if length > 1 else None
    ours = kernels.attention(q, k, v, 0.25, mask)
    assert is_close(ours, scaled_dot_product_attention(q, k, v, None, scale=0.25, mask=mask), 1e-5)


def test_the_fast_blas_is_bound() -> None:
    assert mondrian.model.cpu.openblas.HAS_FAST_BLAS
