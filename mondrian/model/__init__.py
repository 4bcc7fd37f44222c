"""Qwen3-VL on MLX: forward pass, LoRA, adapters, generation.

Importing the package loads OpenBLAS on a Linux CPU, which must happen before MLX is imported.
"""

from mondrian.model.cpu import openblas  # noqa: F401
