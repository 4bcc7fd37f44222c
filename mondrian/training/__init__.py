"""Stage train: a LoRA adapter on the frozen base."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
