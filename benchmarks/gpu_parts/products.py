"""Time products that training consists of: products.py SIZE OUTPUTS INPUTS [BITS]

Prints the rate of SIZE x SIZE products, which other parts are compared with, and of the product of
2,048 rows with a weight (OUTPUTS, INPUTS): plain, packed, packed as in the gradient, and packed but
unpacked first.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx

from benchmarks.measurement import print_result
from mondrian.model.device import DEVICE, type_name

NUM_ROWS = 2048
_REPEATS, _TRIES = 8, 5


def measure_seconds(compute: Callable[[], mx.array]) -> float:
    """Return the seconds of one evaluation: the fastest of some tries of several each."""
    mx.eval(compute())
    tries = []
    for _ in range(_TRIES):
        started = perf_counter()
        mx.eval([compute() for _ in range(_REPEATS)])
        tries.append((perf_counter() - started) / _REPEATS)
    return min(tries)


def rate_of_square_products(size: int, dtype: mx.Dtype) -> float:
    """Return operations per second of products of two random matrices."""
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a, b)
    return 2 * size**3 / measure_seconds(lambda: a @ b)


def packed_product_rates(outputs: int, inputs: int, bits: int, dtype: mx.Dtype) -> dict[str, float]:
    """Return operations per second by kind of product."""
    weight = mx.random.normal((outputs, inputs)).astype(dtype)
    packed = mx.quantize(weight, 64, bits)
    x, dy = (mx.random.normal((NUM_ROWS, n)).astype(dtype) for n in (inputs, outputs))
    mx.eval(weight, packed, x, dy)
    kinds = {
        "plain": lambda: x @ weight.T,
        "packed": lambda: mx.quantized_matmul(x, *packed, True, 64, bits),
        "packed, gradient": lambda: mx.quantized_matmul(dy, *packed, False, 64, bits),
        "unpacked first": lambda: x @ mx.dequantize(*packed, 64, bits).T,
    }
    num_operations = 2 * NUM_ROWS * outputs * inputs
    rates = {}
    for kind, compute in kinds.items():
        try:
            rates[kind] = num_operations / measure_seconds(compute)
        except (RuntimeError, ValueError) as error:
            sys.stderr.write(f"{kind}: {error}\n")
    return rates


def main() -> None:
    size, outputs, inputs, *bits = map(int, sys.argv[1:])
    dtype = DEVICE.float_type or mx.bfloat16
    print_result(
        device=mx.device_info().get("device_name"),
        architecture=mx.device_info().get("architecture"),
        kind=DEVICE.kind,
        mlx=version("mlx"),
        float_type=type_name(dtype),
        size=size,
        operations_per_second=rate_of_square_products(size, dtype),
    )
    if bits:
        rates = packed_product_rates(outputs, inputs, bits[0], dtype)
        print_result(rates={kind: round(rate / 1e12, 3) for kind, rate in rates.items()})


if __name__ == "__main__":
    main()
