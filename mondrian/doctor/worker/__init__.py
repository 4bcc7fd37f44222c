"""The processes of `mondrian doctor` that use MLX: a crash of MLX ends them, not the command."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
