"""The stage evaluate: answers of all arms, metrics, statistics and the verdict on an adapter."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
