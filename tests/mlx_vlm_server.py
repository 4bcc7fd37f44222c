"""mlx_vlm.server as it is, with this project's BLAS before it and on loopback alone."""

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
from mlx_vlm.server.cli import main

main()
