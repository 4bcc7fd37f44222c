"""The model process: one base and its adapters, resident, and nothing else that touches MLX."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
