"""The device that MLX computes on: a GPU, or a Linux CPU with the kernels of mondrian/model/cpu."""

from __future__ import annotations

import mlx.core as mx

ON_GPU = mx.default_device().type == mx.DeviceType.gpu
NUM_STREAMS = 1 if ON_GPU else 2  # MLX streams that share the rows of a batch
