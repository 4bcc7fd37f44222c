"""Checks of the operating system, its programs, memory and disk."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

from mondrian.doctor.check import Check

_PIPELINE_GB = 1.3  # disk that `make` takes
_LARGE_BASE_GB = 12.0  # disk for Qwen3-VL-4B in 16 bit, its adapters and features
_MIN_MEMORY_GB = 2.0  # free RAM for the sample and its tests


def check_machine(project: Path) -> Iterator[Check]:
    yield check_version(project)
    if sys.platform == "darwin":
        yield check_macos(platform.mac_ver()[0], platform.machine())
    else:
        yield Check("system", describe_linux())
    yield check_python(sys.version_info[:3])
    for program in ("make", "git"):
        yield check_program(program)
    memory = psutil.virtual_memory()
    yield check_memory(memory.total / 1e9, memory.available / 1e9)
    yield check_disk(shutil.disk_usage(project).free / 1e9)


def check_version(project: Path) -> Check:
    """Check that the code is that of a commit, so that a report names it."""
    release = version("mondrian")
    if not (project / ".git").exists():
        return Check("mondrian", f"{release}, not in a git checkout")
    commit = _read_output("git", "-C", str(project), "rev-parse", "--short", "HEAD")
    changes = _read_output("git", "-C", str(project), "status", "--porcelain", "mondrian", "stages")
    suffix = ", code changed since" if changes else ""
    return Check("mondrian", f"{release}, commit {commit or 'unknown'}{suffix}")


def check_macos(release: str, machine: str) -> Check:
    """Check the version of macOS, and that Python is not translated by Rosetta."""
    result, major = f"macOS {release} ({machine})", int(release.split(".")[0] or 0)
    if machine != "arm64":
        advice = "MLX needs Apple silicon and a Python for it, not one of an Intel Mac: "
        return Check("system", result, "failed", f"{advice}make clean, install one, make PYTHON=…")
    if major < 14:
        return Check("system", result, "failed", "MLX needs macOS 14 or later: update macOS")
    if major < 15:
        advice = "macOS 15 can keep a model's weights in memory (wired limit); 14 cannot"
        return Check("system", result, "warning", advice)
    return Check("system", result)


def describe_linux() -> str:
    """Return name, processor type and C library of a Linux."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name} ({platform.machine()}), {' '.join(platform.libc_ver()) or 'other C library'}"


def check_python(release: tuple[int, ...]) -> Check:
    text = ".".join(map(str, release))
    if (3, 11) <= release[:2] < (3, 14):
        return Check("Python", text)
    return Check(
        "Python", text, "failed", "3.11 to 3.13 needed: make clean, make PYTHON=python3.12"
    )


def check_program(name: str) -> Check:
    """Check that a program can be started, and read its version."""
    if shutil.which(name) is None:
        advice = f"install it: xcode-select --install on a Mac, the package {name} on Linux"
        return Check(name, "not found", "failed", advice)
    match = re.search(r"\d+(\.\d+)+", _read_output(name, "--version"))
    if match is None:
        return Check(name, "does not start", "failed", f"run {name} --version; it says why")
    return Check(name, match[0])


def check_memory(total_gb: float, free_gb: float) -> Check:
    result = f"{total_gb:.1f} GB, {free_gb:.1f} GB free, {psutil.cpu_count()} CPU cores"
    if free_gb < _MIN_MEMORY_GB:
        advice = f"end other programs: the sample needs {_MIN_MEMORY_GB:.0f} GB"
        return Check("memory", result, "warning", advice)
    return Check("memory", result)


def check_disk(free_gb: float) -> Check:
    result = f"{free_gb:.1f} GB"
    if free_gb < _PIPELINE_GB:
        advice = f"make needs {_PIPELINE_GB} GB: free some"
        return Check("free disk", result, "failed", advice)
    if free_gb < _LARGE_BASE_GB:
        advice = f"enough for the sample; Qwen3-VL-4B needs {_LARGE_BASE_GB:.0f} GB"
        return Check("free disk", result, "warning", advice)
    return Check("free disk", result)


def _read_output(*command: str) -> str:
    """Return what a command prints; "" if it fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
