"""The installed build of MLX decides what is preloaded; without one there is one line of help."""

import ctypes
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mondrian.model import backend
from tests.conftest import ROOT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a Mac has one build, mlx-metal")


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def install_build(folder: Path, package: str, size: int = 5) -> None:
    """Write libmlx.so, of 5 bytes, and the record of a package that installed it with a size."""
    library = folder / "mlx/lib/libmlx.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"build")
    info = folder / f"{package.replace('-', '_')}-{version('mlx')}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (info / "RECORD").write_text(f"mlx/lib/libmlx.so,sha256=abc,{size}\n")


def run_python(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | env, timeout=PATIENCE
    )


def test_the_installed_build_is_found() -> None:
    build = backend.find_build()
    assert build in ("mlx-cpu", *backend.DRIVERS)
    assert version(build) == version("mlx")
    assert backend.describe_problem() == ""


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_a_cuda_build_without_a_driver_ends_with_one_line(tmp_path: Path) -> None:
    install_build(tmp_path, "mlx-cuda-13")
    run = run_python("import mondrian.model", PYTHONPATH=str(tmp_path))
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "error: mlx-cuda-13 needs an NVIDIA card and its driver 580 or later" in run.stderr
    assert "make DEVICE=cpu" in run.stderr


def test_mlx_without_kernels_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    run = run_python("import mondrian.model", "-S", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "error: MLX has no kernels here" in run.stderr
    assert "'.[cpu]'" in run.stderr


def test_with_a_cuda_build_nothing_is_preloaded_or_printed(tmp_path: Path) -> None:
    install_build(tmp_path, "mlx-cuda-13")
    driver = next(path for path in Path("/lib").rglob("libm.so.6"))  # any library: it is not called
    (tmp_path / "libcuda.so.1").symlink_to(driver)
    run = run_python(
        "import os\nos.environ.pop('MLX_BFS_MAX_WIDTH', None)\nimport mondrian.model\n"
        "print('openblas' in open('/proc/self/maps').read(), 'MLX_BFS_MAX_WIDTH' in os.environ)",
        PYTHONPATH=str(tmp_path),
        LD_LIBRARY_PATH=str(tmp_path),
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "False False\n", "")


def test_of_two_builds_the_one_whose_file_is_there_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_build(tmp_path, "mlx-cuda-12", size=7)
    install_build(tmp_path, "mlx-cuda-13", size=5)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backend, "find_library", lambda: tmp_path / "mlx/lib/libmlx.so")
    assert backend.find_build() == "mlx-cuda-13"
