"""Make MLX quick on a Linux CPU. Import this before the first `import mlx.core`.

The CPU build of mlx carries a reference BLAS and asks glibc for fresh pages at every step. An
OpenBLAS that is loaded first, with its symbols global, is bound in its place (opencv, which mlx-vlm
needs anyway, brings one), and malloc is told to keep large blocks. On Apple silicon MLX has
Accelerate and Metal, and nothing here does anything.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc <malloc.h>

WARNING = (
    "warning: no fast BLAS found (opencv-python's libopenblas); MLX runs on its reference BLAS, "
    "about 25 times slower. `pip install opencv-python` mends it."
)


def find_openblas() -> Path | None:
    """The OpenBLAS inside opencv-python's wheel, or None where there is none."""
    spec = importlib.util.find_spec("cv2")
    if spec is None or not spec.submodule_search_locations:
        return None
    site = Path(spec.submodule_search_locations[0]).parent
    return next(iter(sorted(site.glob("opencv_python*.libs/libopenblas*.so*"))), None)


def preload_openblas() -> bool:
    """Bind a fast BLAS and keep freed memory; say so once where there is none."""
    if sys.platform != "linux":
        return True
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; musl has none
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # One thread: MLX's own work fills the other core, a lane of rows each
    # (mondrian/training/loss.py).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Lanes run side by side only where MLX orders its work by breadth, and not from the width of 20
    # arrays on by depth; read once, at its first evaluation.
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1000")
    path = find_openblas()
    late = "mlx.core" in sys.modules
    if path is None or late:
        print(
            "warning: mlx was imported before mondrian.model.cpu.openblas" if late else WARNING,
            file=sys.stderr,
        )
        return False
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return True


HAS_FAST_BLAS = preload_openblas()
