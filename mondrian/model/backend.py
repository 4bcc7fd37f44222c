"""The build of MLX that is installed, found before MLX is imported.

On Linux the package mlx has no kernels. They are in libmlx.so of mlx-cpu, mlx-cuda-12 or
mlx-cuda-13: the file has the same name in all three, so the last one installed is in use.
"""

import ctypes
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mondrian.core.errors import ERROR_PREFIX

DRIVERS = {"mlx-cuda-12": 550, "mlx-cuda-13": 580}  # lowest NVIDIA driver of each build
_LINUX_BUILDS = ("mlx-cpu", *DRIVERS)


def find_library() -> Path | None:
    """Return the file of MLX's kernels, if it is installed."""
    spec = importlib.util.find_spec("mlx")
    folders = spec.submodule_search_locations or [] if spec else []
    name = "libmlx.dylib" if sys.platform == "darwin" else "libmlx.so"
    files = (Path(folder) / "lib" / name for folder in folders)
    return next((file for file in files if file.is_file()), None)


def find_build() -> str | None:
    """Return the package that MLX's kernels are of; None on a Mac and for a build from source."""
    library = find_library()
    if library is None or sys.platform == "darwin":
        return None
    size = library.stat().st_size
    return next((name for name in _LINUX_BUILDS if _recorded_size(name) == size), None)


def _recorded_size(package: str) -> int | None:
    """Return the size of libmlx.so that a package was installed with."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    return next((file.size for file in files if file.name == "libmlx.so"), None)


def describe_problem() -> str:
    """Return why MLX cannot be imported, on one line, or "" if it can."""
    if find_library() is None:
        return (
            "MLX has no kernels here; in the checkout run make, or pip install '.[cpu]' "
            "('.[cuda12]' or '.[cuda13]' for an NVIDIA card)"
        )
    if (build := find_build()) not in DRIVERS:
        return ""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (
            f"{build} needs an NVIDIA card and its driver {DRIVERS[build]} or later, and "
            "libcuda.so.1 is not found; install the driver, or compute on the CPU: make DEVICE=cpu"
        )
    return ""


def exit_without_backend() -> None:
    """End the process with one line: modules import MLX before anything can report an error."""
    if problem := describe_problem():
        sys.exit(f"{ERROR_PREFIX}{problem}")


exit_without_backend()
