import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mondrian.model import backend
from mondrian.model.cpu import openblas
from tests.conftest import ROOT
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(backend.find_build() != "mlx-cpu", reason="needs mlx-cpu")


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


@pytest.mark.parametrize(
    ("flags", "core_type"),
    [
        ("sse3 avx2 fma avx512f avx512cd avx512bw avx512dq avx512vl", "SkylakeX"),
        ("sse3 avx2 fma avx512f", "Haswell"),  # Xeon Phi
        ("sse3", None),
    ],
)
def test_kernels_are_chosen_by_the_flags_of_the_cpu(flags: str, core_type: str | None) -> None:
    assert openblas.select_core_type(f"vendor_id : x\nflags\t\t: {flags}\nbugs : y\n") == core_type


def test_openblas_uses_fast_kernels_on_this_cpu() -> None:
    library = ctypes.CDLL(str(openblas.find_openblas()))
    library.openblas_get_corename.restype = ctypes.c_char_p
    core_type = os.environ.get("OPENBLAS_CORETYPE") or openblas.select_core_type(
        Path("/proc/cpuinfo").read_text()
    )
    assert core_type in (None, library.openblas_get_corename().decode())
