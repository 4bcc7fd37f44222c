"""Make the package mlx-cpu fast. Import this before the first `import mlx.core`.

mlx-cpu has a reference BLAS and asks glibc for fresh pages at every step. An OpenBLAS loaded
first, with global symbols, is bound instead (opencv, which mlx-vlm needs anyway, ships one), and
malloc keeps large blocks. With MLX for Metal or CUDA this module does nothing.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

from mondrian.model import backend

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc <malloc.h>
_CORE_TYPES = {
    "SkylakeX": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "Haswell": {"avx2", "fma"},
}

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


def select_core_type(cpuinfo: str) -> str | None:
    """Return OpenBLAS's kernels for the CPU flags in /proc/cpuinfo; None if they name neither.

    The OpenBLAS in opencv-python's wheel is of 2021: on a newer CPU that it does not know it takes
    kernels of 2004, a fifth as fast (measured on an Emerald Rapids: 31 and 156 GFLOP/s a thread).
    """
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    for core_type, needed in _CORE_TYPES.items():
        if needed <= set(flags):
            return core_type
    return None


def _load_globally(path: Path) -> None:
    """Load OpenBLAS with the kernels of this CPU, unless OPENBLAS_CORETYPE names others."""
    cpuinfo = Path("/proc/cpuinfo")
    core_type = select_core_type(cpuinfo.read_text()) if cpuinfo.is_file() else None
    is_chosen = "OPENBLAS_CORETYPE" in os.environ
    if core_type and not is_chosen:
        os.environ["OPENBLAS_CORETYPE"] = core_type  # read once, while it loads
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    if core_type and not is_chosen:
        del os.environ["OPENBLAS_CORETYPE"]  # numpy's own OpenBLAS knows the CPU


def preload_openblas() -> bool:
    """Bind OpenBLAS and keep freed memory; print one warning if that is not possible."""
    if backend.find_build() != "mlx-cpu":
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
    _load_globally(path)
    return True


HAS_FAST_BLAS = preload_openblas()
