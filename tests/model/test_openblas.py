import os
import re
import subprocess
import sys

import pytest

from mondrian.model.cpu import openblas
from tests.conftest import ROOT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Metal and Accelerate serve there")


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | env, timeout=PATIENCE
    )


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


def test_mlx_multiplies_with_openblas() -> None:
    process = run_python(
        "import mondrian.model.cpu.openblas\nimport mlx.core as mx\n"
        "a = mx.random.normal((64, 64)); mx.eval(a @ a)",
        LD_DEBUG="bindings",  # the dynamic linker reports each symbol that it binds
    )
    bound = [line for line in process.stderr.splitlines() if "`cblas_sgemm'" in line]
    assert any(re.search(r"libmlx\.so .* to .*libopenblas", line) for line in bound), bound
