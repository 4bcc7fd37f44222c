"""Qwen3-VL on MLX: forward pass, LoRA, adapters, generation.

Importing the package ends the process with one line if MLX has no kernels to import, and loads
OpenBLAS for the CPU build of MLX, which must happen before MLX is imported.
"""

from mondrian.model import backend  # noqa: F401
from mondrian.model.cpu import openblas  # noqa: F401
