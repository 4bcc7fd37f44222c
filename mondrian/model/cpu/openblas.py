"""Make MLX fast on a Linux CPU. Import this before the first `import mlx.core`.

The CPU build of mlx carries a reference BLAS and asks glibc for fresh pages at every step. An
OpenBLAS loaded first, with global symbols, is bound instead (opencv, which mlx-vlm needs anyway,
ships one), and malloc keeps large blocks. On Apple silicon MLX has Accelerate and Metal, and this
module does nothing.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc <malloc.h>

WARNING = (
    "warning: no fast BLAS found (opencv-python's libopenblas); MLX runs on its reference BLAS, "
    "about 25 times slower. `pip install opencv-python` fixes it."
)


def find_openblas() -> Path | None:
    """Return the OpenBLAS inside opencv-python's wheel, if it is installed."""
    spec = importlib.util.find_spec("cv2")
    if spec is None or not spec.submodule_search_locations:
        return None
    site = Path(spec.submodule_search_locations[0]).parent
    return next(iter(sorted(site.glob("opencv_python*.libs/libopenblas*.so*"))), None)


def preload_openblas() -> bool:
    """Bind OpenBLAS and keep freed memory; print one warning if that is not possible."""
    if sys.platform != "linux":
        return True
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; musl has none
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # One thread: the other core runs MLX's second stream (mondrian/model/streams.py).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Streams run at the same time only if MLX orders its work breadth-first; from a width of 20
    # arrays on it works depth-first. Read once, at MLX's first evaluation.
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1000")
    path = find_openblas()
    is_late = "mlx.core" in sys.modules
    if path is None or is_late:
        late_warning = "warning: mlx was imported before mondrian.model.cpu.openblas"
        print(late_warning if is_late else WARNING, file=sys.stderr)
        return False
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return True


HAS_FAST_BLAS = preload_openblas()
