"""The kernels compared with MLX's, in values and gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mondrian.model import kernels
from mondrian.model.cpu import kernels as cpu_kernels
from mondrian.model.cpu.attention import KEPT_SCORES, QUERY_BLOCK_SIZE, Past
from mondrian.model.cpu.attention import attention as cpu_attention
from mondrian.model.kernels import AttentionSpan


def is_close(a: Any, b: Any, tolerance: float) -> bool:
    """Compare with `tolerance`, absolute and relative."""
    a, b = (np.array(x.astype(mx.float32)) for x in (a, b))
    return np.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    mx.random.seed(0)


def compute_gradients(
    f: Callable[..., Any], arguments: list[mx.array], weight: mx.array
) -> list[mx.array]:
    gradients: Any = mx.grad(lambda *x: (f(*x) * weight).sum(), tuple(range(len(arguments))))
    return list(gradients(*arguments))


def stock_attention(qkv: Sequence[mx.array], mask: Any) -> mx.array:
    q, k, v = qkv
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)


def make_qkv(queries: int, keys: int) -> list[mx.array]:
    """Return q of four heads over two; v with the strides that a projection gives it."""
    q, k = mx.random.normal((2, 4, queries, 16)), mx.random.normal((2, 2, keys, 16))
    return [q, k, mx.random.normal((2, keys, 2, 16)).swapaxes(1, 2)]


def test_softmax_and_its_gradient_equal_mlxs() -> None:
    x = mx.random.normal((3, 5, 40)) * 8
    weight = mx.random.normal(x.shape)
    both: Any = (cpu_kernels.softmax, lambda s: mx.softmax(s, axis=-1))
    ours, plain = (f(x) for f in both)
    assert is_close(ours, plain, 1e-6)
    ours, plain = (compute_gradients(f, [x], weight)[0] for f in both)
    assert is_close(ours, plain, 1e-5)


def plain_swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return nn.silu(gate) * x


@pytest.mark.parametrize("rows", [4, 400])  # a small array, and a large one
def test_cpu_swiglu_and_its_gradient_equal_mlxs(rows: int) -> None:
    gate, x = mx.random.normal((2, rows, 100)) * 6
    assert (gate.size < cpu_kernels.SMALL_ARRAY_SIZE) == (rows == 4)
    assert is_close(cpu_kernels.swiglu(gate, x), plain_swiglu(gate, x), 1e-5)
    weight = mx.random.normal(x.shape)
    ours, plain = (
        compute_gradients(f, [gate, x], weight) for f in (cpu_kernels.swiglu, plain_swiglu)
    )
    assert all(is_close(a, b, 1e-4) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(mx.float32, 1e-5), (mx.float16, 2e-3), (mx.bfloat16, 2e-2)]
)
def test_gpu_swiglu_and_its_gradient_equal_mlxs_in_float32(dtype: Any, tolerance: float) -> None:
    gate, x, weight = (a.astype(dtype) for a in mx.random.normal((3, 40, 100)) * 3)
    exact = [a.astype(mx.float32) for a in (gate, x)]
    output: Any = kernels.gpu_swiglu(gate, x)
    gradients = compute_gradients(kernels.gpu_swiglu, [gate, x], weight)
    assert {a.dtype for a in (output, *gradients)} == {dtype}
    assert is_close(output, plain_swiglu(*exact), tolerance)
    plain = compute_gradients(plain_swiglu, exact, weight.astype(mx.float32))
    assert all(is_close(a, b, tolerance) for a, b in zip(gradients, plain, strict=True))


def peak_bytes_of_gradients(f: Callable[..., Any], x: mx.array, others: list[mx.array]) -> int:
    """Return the peak, without the arguments, of a chain of f over `others`."""
    mx.eval(x, others)

    def chain(x: mx.array, *others: mx.array) -> mx.array:
        for other in others:
            x = f(x, other)
        return x.sum()

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(chain, tuple(range(1 + len(others))))(x, *others))
    return mx.get_peak_memory() - before


def test_gpu_swiglu_keeps_less_than_mlxs() -> None:
    x, *gates = mx.random.normal((9, 100, 1000))
    ours, plain = (
        peak_bytes_of_gradients(lambda x, gate, f=f: f(gate, x), x, gates)
        for f in (kernels.gpu_swiglu, plain_swiglu)
    )
    assert ours < 0.85 * plain


def test_cross_entropy_and_its_gradient_equal_mlxs() -> None:
    logits, weight = 9 * mx.random.normal((3, 7, 50)), mx.random.normal((3, 7))
    targets = mx.random.randint(0, 50, (3, 7))
    both: Any = (cpu_kernels.cross_entropy, nn.losses.cross_entropy)
    ours, plain = (f(logits, targets) for f in both)
    assert is_close(ours, plain, 1e-5)
    ours, plain = (mx.grad(lambda x, f=f: (f(x, targets) * weight).sum())(logits) for f in both)
    assert is_close(ours, plain, 1e-5)


BLOCK = QUERY_BLOCK_SIZE


@pytest.mark.parametrize("kept_scores", [0, KEPT_SCORES])
@pytest.mark.parametrize("mask", ["causal", None])
@pytest.mark.parametrize(
    ("past", "length"),
    [(0, 1), (37, 1), (0, 2), (0, 2 * BLOCK), (0, 2 * BLOCK + 1), (37, BLOCK + 20), (999, 3)],
)
def test_cpu_attention_and_its_gradients_equal_mlxs(
    past: int, length: int, mask: Any, kept_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.model.cpu.attention.KEPT_SCORES", kept_scores)
    qkv = make_qkv(length, past + length)
    weight = mx.random.normal(qkv[0].shape)

    def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return cpu_attention(q, k, v, 0.25, mask)

    def plain(*qkv: mx.array) -> mx.array:
        return stock_attention(qkv, mask)

    assert is_close(ours(*qkv), plain(*qkv), 1e-5)
    both = (compute_gradients(f, qkv, weight) for f in (ours, plain))
    assert all(is_close(a, b, 1e-5) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("kept_scores", [0, KEPT_SCORES])
def test_the_gradient_of_attention_is_bitwise_repeatable(
    kept_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mondrian.model.cpu.attention.KEPT_SCORES", kept_scores)
    qkv = make_qkv(300, 300)
    weight = mx.random.normal(qkv[0].shape)
    runs = [
        [np.array(g).tobytes() for g in compute_gradients(attend_causally, qkv, weight)]
        for _ in range(3)
    ]
    assert runs[0] == runs[1] == runs[2]


def attend_causally(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    return cpu_attention(q, k, v, 0.25, "causal")


def test_attention_keeps_no_scores_of_a_long_row_for_its_gradient() -> None:
    length, layers = 768, 8
    q, k, v = (x[:1] for x in make_qkv(length, length))
    others = [*mx.random.normal((layers, *k.shape))]
    peak = peak_bytes_of_gradients(lambda q, k: attend_causally(q, k, v), q, others)
    assert peak < layers * 4 * q.shape[0] * q.shape[1] * length**2 / 2


@pytest.mark.parametrize("past", [0, 37, 999])
def test_attention_of_one_query_equals_mlxs(past: int) -> None:
    q, k, v = make_qkv(1, past + 1)
    ours = kernels.attend_cached(q, Past((k, v)), 0.25)
    assert is_close(ours, stock_attention([q, k, v], None), 1e-5)


def test_packed_spans_have_the_gradients_of_their_rows() -> None:
    qkv = [x[:1] for x in make_qkv(90, 90)]
    spans = [
        AttentionSpan((0, 20), ((0, 20),)),
        AttentionSpan((20, 50), ((0, 20), (20, 50))),
        AttentionSpan((50, 90), ((0, 20), (50, 90))),
    ]
    weight = mx.random.normal(qkv[0].shape)
    index = np.arange(90)
    row = np.digitize(index, [20, 50])
    visible = (row[:, None] == row) | (row == 0)
    mask = mx.array(np.where(visible & (index[:, None] >= index), 0, -1e9).astype(np.float32))

    def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return kernels.attention(q, k, v, 0.25, spans)

    ours = compute_gradients(attend, qkv, weight)
    plain = compute_gradients(lambda *x: stock_attention(x, mask), qkv, weight)
    assert all(is_close(a, b, 1e-5) for a, b in zip(ours, plain, strict=True))
