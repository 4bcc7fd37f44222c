"""The model process: one base and its adapters, and the only part of serving that uses MLX."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
