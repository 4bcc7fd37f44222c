"""Checks of the device that MLX computes on, its kernels and memory limits."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mondrian.core.params import load_params
from mondrian.doctor.check import Check
from mondrian.model import backend
from mondrian.model.cpu.openblas import HAS_FAST_BLAS, WARNING
from mondrian.model.device import DEVICE, type_name
from mondrian.model.hardware import measure_throughput
from mondrian.model.memory_limits import set_memory_limits

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_KINDS = {"cpu": "CPU", "metal": "GPU (Metal)", "cuda": "GPU (CUDA)"}


def self_test_types() -> list[str]:
    """Return the types that mondrian-tiny is tested in: its own and, on a GPU, a large base's."""
    if os.environ.get("MONDRIAN_DEVICE") or DEVICE.kind == "cpu":
        return [type_name(DEVICE.float_type)]
    return ["float32", "bfloat16"]


def check_device(project: Path) -> Iterator[Check]:
    info = mx.device_info()
    limits = set_memory_limits(load_params(project / "params.yaml").machine.cache_limit_gb)
    yield Check("device", f"{info.get('device_name')} ({info.get('architecture')})")
    yield Check("computes on", describe_policy())
    yield check_mlx()
    yield check_kernels()
    yield Check("memory limits", describe_limits(info))
    if DEVICE.kind == "metal":
        sysctl = _read_sysctl("iogpu.wired_limit_mb")
        yield Check("wired limit", describe_wired_limit(limits.wired, sysctl))
    if DEVICE.kind == "cuda":
        text = _DRIVER_FILE.read_text() if _DRIVER_FILE.exists() else ""
        yield check_driver(text, backend.DRIVERS.get(backend.find_build() or "", 0))


def describe_policy() -> str:
    if not os.environ.get("MONDRIAN_DEVICE"):
        return _KINDS[DEVICE.kind]
    kind = "CPU as a GPU" if DEVICE.kind == "cpu" else _KINDS[DEVICE.kind]
    return f"{kind}, bases in {type_name(DEVICE.float_type)} (MONDRIAN_DEVICE)"


def check_mlx() -> Check:
    """Check that the package with MLX's kernels is of the version of mlx."""
    release = version("mlx")
    build = "mlx-metal" if DEVICE.kind == "metal" else backend.find_build() or "source"
    try:
        build_release = version(build)
    except PackageNotFoundError:
        build_release = release
    result = f"{release} ({build}), mlx-vlm {version('mlx-vlm')}"
    if build_release != release:
        advice = "install the same version of both: make clean, make"
        return Check("MLX", f"{result}, {build} {build_release}", "failed", advice)
    return Check("MLX", result)


def check_kernels() -> Check:
    """Check that matrix products are fast, and measure one."""
    dtype = type_name(DEVICE.float_type or mx.bfloat16)
    rate = f"{measure_throughput().flops_per_second / 1e9:,.1f} GFLOP/s in {dtype}"
    if backend.find_build() == "mlx-cpu" and not HAS_FAST_BLAS:
        result, advice = f"reference BLAS, {rate}", WARNING.removeprefix("warning: ")
        return Check("kernels", result, "warning", advice)
    blas = f", {describe_openblas()}" if backend.find_build() == "mlx-cpu" else ""
    return Check("kernels", f"{'own' if DEVICE.own_kernels else 'MLX'}{blas}, {rate}")


def describe_openblas() -> str:
    """Name OpenBLAS, and its kernels if the environment chooses them: wrong ones are slow."""
    core_type = os.environ.get("OPENBLAS_CORETYPE")
    return f"OpenBLAS (OPENBLAS_CORETYPE={core_type})" if core_type else "OpenBLAS"


def describe_limits(info: dict[str, Any]) -> str:
    """Return MLX's limits and, of a GPU, the memory that it may keep resident."""
    cache_limit = mx.set_cache_limit(0)  # MLX has no call that only reads it
    mx.set_cache_limit(cache_limit)
    limits = f"MLX {mx.get_memory_limit() / 1e9:.1f} GB, cache {cache_limit / 1e9:.2f} GB"
    names = {
        "max_recommended_working_set_size": "working set",
        "memory_size": "of",  # Metal
        "total_memory": "card",  # CUDA
    }
    return limits + "".join(
        f", {name} {info[key] / 1e9:.1f} GB" for key, name in names.items() if key in info
    )


def describe_wired_limit(wired: int | None, sysctl: str) -> str:
    """Return how much stays resident; `sysctl` is the system's limit in MB, 0 for its default."""
    own = "none (macOS 14)" if wired is None else f"{wired / 1e9:.1f} GB"
    is_set = sysctl.isdigit() and int(sysctl) > 0
    return f"{own}, system's limit: {f'{int(sysctl) / 1e3:.1f} GB' if is_set else 'the default'}"


def check_driver(text: str, required: int) -> Check:
    """Check NVIDIA's driver; `text` is what the kernel module says."""
    match = re.search(r"\b(\d{3,})(?:\.\d+)+\b", text)
    if match is None:
        return Check("NVIDIA driver", "version not found", "warning", "run nvidia-smi")
    if int(match[1]) < required:
        advice = f"{required} or later needed: update it, or make DEVICE=cuda12 (550)"
        return Check("NVIDIA driver", match[0], "failed", advice)
    return Check("NVIDIA driver", match[0])


def _read_sysctl(name: str) -> str:
    if sys.platform != "darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True).stdout.strip()
