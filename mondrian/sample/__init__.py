"""The rendered sample application, and the pre-training of mondrian-tiny."""

import mondrian.model  # noqa: F401  (OpenBLAS, before any module here imports MLX)
