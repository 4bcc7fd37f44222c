"""Tolerances of results of mondrian-tiny, by the type that it computes in.

That is float32 on every device; MONDRIAN_DEVICE makes it float16 or bfloat16 on a CPU, for the
tests with the marker `device`.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mondrian.model.device import DEVICE

FLOAT_TYPE = DEVICE.for_base(0).float_type


def by_type(float32: float, float16: float, bfloat16: float) -> float:
    """Return the tolerance of the type in use."""
    if FLOAT_TYPE == mx.float32:
        return float32
    return float16 if FLOAT_TYPE == mx.float16 else bfloat16


def to_numpy(x: mx.array) -> NDArray[np.float32]:
    """Return the values in float32: numpy has no bfloat16."""
    return np.array(x.astype(mx.float32))


def max_error(actual: Any, expected: Any) -> float:
    """Return the largest difference, in relation to the expected value plus one."""
    a, b = (to_numpy(mx.array(x)) for x in (actual, expected))
    return float((np.abs(a - b) / (1 + np.abs(b))).max())
