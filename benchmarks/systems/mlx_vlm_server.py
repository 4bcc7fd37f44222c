"""Run mlx_vlm.server with this project's BLAS and malloc settings: mlx_vlm_server.py FLAGS"""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import mondrian.model  # noqa: F401  # before mlx

if __name__ == "__main__":
    runpy.run_module("mlx_vlm.server", run_name="__main__", alter_sys=True)
