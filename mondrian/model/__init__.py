"""Qwen3-VL on MLX: forward, LoRA, adapters, generation; it loads OpenBLAS before MLX."""

from mondrian.model import blas  # noqa: F401
