"""The device policy: what it reads from the environment, and the type it gives a base."""

import mlx.core as mx
import pytest

from mondrian.model.device import CPU, CUDA, FORCED_GPU, METAL, detect_device
from mondrian.model.kernels import stock_causal_attention


def test_a_small_base_is_computed_in_float32_on_every_device() -> None:
    assert METAL.for_base(2_000_000).float_type == mx.float32
    assert CUDA.for_base(2_000_000).float_bytes == 4
    assert METAL.for_base(4_000_000_000).float_type is None
    assert METAL.for_base(4_000_000_000).float_bytes == 2
    assert CPU.for_base(4_000_000_000).float_type == mx.float32


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_forced_gpu_computes_every_base_in_its_type(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONDRIAN_DEVICE", f"gpu-{name}")
    device = detect_device()
    assert (device.own_kernels, device.num_streams) == (False, 1)
    assert device.for_base(2_000_000).float_type == getattr(mx, name)
    assert FORCED_GPU.float_type is None


def test_an_unknown_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_DEVICE", "tpu")
    with pytest.raises(SystemExit, match="^error: MONDRIAN_DEVICE is 'tpu'; it may be gpu-float16"):
        detect_device()


def test_cuda_keeps_attention_scores_in_float32_only() -> None:
    half, single = CUDA.for_base(4_000_000_000), CUDA.for_base(2_000_000)
    assert (half.query_block, half.keeps_scores) == (128, False)
    assert (single.query_block, single.keeps_scores) == (0, True)


@pytest.mark.parametrize("num_queries", [5, 8])
def test_padded_queries_change_neither_attention_nor_its_gradient(num_queries: int) -> None:
    keys = mx.random.split(mx.random.key(0), 4)
    q = mx.random.normal((1, 4, num_queries, 16), key=keys[0])
    k, v = (mx.random.normal((1, 2, 11, 16), key=key) for key in keys[1:3])
    weights = mx.random.normal(q.shape, key=keys[3])

    def run(query_multiple: int) -> list[mx.array]:
        def loss(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            return (stock_causal_attention(q, k, v, 0.25, query_multiple) * weights).sum()

        value, gradients = mx.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
        return [value, *gradients]

    for padded, plain in zip(run(8), run(1), strict=True):
        assert mx.allclose(padded, plain, rtol=1e-5, atol=1e-5)
