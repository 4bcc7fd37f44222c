import subprocess
import sys

import pytest

from mondrian.model.cpu import openblas
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Metal and Accelerate serve there")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_opencv_ships_an_openblas() -> None:
    path = openblas.find_openblas()
    assert path is not None
    assert path.is_file()


def test_without_a_fast_blas_there_is_one_warning() -> None:
    process = run_python(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'cv2' else find(name, *a)\n"
        "import mondrian.model.cpu.openblas, mondrian.model.vlm"
    )
    assert process.returncode == 0
    assert process.stderr.count("warning: no fast BLAS found") == 1


def test_importing_it_after_mlx_warns() -> None:
    process = run_python("import mlx.core\nimport mondrian.model.cpu.openblas")
    assert "mlx was imported before mondrian.model.cpu.openblas" in process.stderr


def test_mlx_multiplies_fast() -> None:
    process = run_python(
        "import mondrian.model.cpu.openblas\nimport mlx.core as mx, time\n"
        "a = mx.random.normal((768, 768)); mx.eval(a @ a)\n"
        "t = time.perf_counter(); mx.eval(a @ a); print(time.perf_counter() - t)"
    )
    # 0.9 GFLOP: about 0.02 s, and 0.2 s on the reference BLAS.
    assert float(process.stdout) < 0.12
