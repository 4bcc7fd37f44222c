"""Recipes of the Makefile work with GNU make 3.81, which macOS has, and in a path with spaces."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.waiting import PATIENCE

# Looked up in the PATH that make was started with; everything else is in the environment.
_SYSTEM_PROGRAMS = {"command", "cp", "echo", "find", "if", "rm", "sed", "set", "touch"}


def recipe_lines() -> list[str]:
    """Return the commands of all recipes, continued lines joined, without the prefix @."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    recipes = re.findall(r"^(?:\t|@)(.+)$", text, re.MULTILINE)
    return [line.removeprefix("@") for line in recipes if not line.startswith("$(call")]


def test_recipes_name_programs_of_the_environment_by_path() -> None:
    lines = recipe_lines()
    assert len(lines) > 15
    for line in lines:
        program = line.split()[0]
        assert (
            program.startswith(("$(BIN)/", "$(PYTHON)", "$(PYTEST)")) or program in _SYSTEM_PROGRAMS
        ), line


def test_no_recipe_names_the_folder_of_the_checkout_without_quotes() -> None:
    text = (ROOT / "Makefile").read_text()
    assert re.findall(r"^.*\$\(CURDIR\).*$", text, re.MULTILINE) == [
        "export PATH := $(CURDIR)/$(BIN):$(PATH)"
    ]


def locked_packages(name: str) -> set[str]:
    text = (ROOT / name).read_text()
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


@pytest.mark.parametrize("version", ["12", "13"])
def test_the_lock_of_a_cuda_version_has_only_what_replaces_mlx_cpu(version: str) -> None:
    packages, build = locked_packages(f"requirements-cuda{version}.lock"), f"mlx-cuda-{version}"
    assert build in packages
    assert all(name == build or name.startswith("nvidia-") for name in packages)
    assert not packages & locked_packages("requirements.lock")
    assert "mlx-cpu" in locked_packages("requirements.lock")
    assert "mlx-cpu" not in locked_packages("requirements-dev.lock")


class Checkout:
    """What installing reads, in a folder where pip and uv record their arguments and do nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", *(p.name for p in ROOT.glob("requirements*"))):
            shutil.copy(ROOT / name, folder / name)
        self.bin = folder / ".venv/bin"
        self.bin.mkdir(parents=True)
        for name in ("python", "uv"):
            program = self.bin / name
            program.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$@" >>installs\n')
            program.chmod(0o755)
        (folder / ".venv/python").touch()

    def make(self, *args: str) -> list[str]:
        """Run make .venv/run; return the commands of installation."""
        (self.folder / "installs").unlink(missing_ok=True)
        command = ["make", ".venv/run", *args]
        run = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )
        assert run.returncode == 0, run.stderr
        log = self.folder / "installs"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def requirements(self) -> str:
        return (self.folder / ".venv/requirements.txt").read_text()


def test_another_device_is_installed_after_its_rivals_are_removed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    first = checkout.make()
    assert [line.split()[1] for line in first] == ["uninstall", "install", "install"]
    assert "-r requirements-cuda12.lock -r requirements-cuda13.lock" in first[0]
    assert checkout.requirements == (ROOT / "requirements.lock").read_text()
    assert checkout.make() == []
    cuda = checkout.make("DEVICE=cuda13")
    assert cuda[0].endswith("-r requirements-cuda12.lock mlx-cpu")
    assert "mlx-cpu==" not in checkout.requirements
    assert (ROOT / "requirements-cuda13.lock").read_text() in checkout.requirements
    assert "mlx==" in checkout.requirements
    assert checkout.make() == []  # the environment keeps its device
    assert len(checkout.make("DEVICE=cpu")) == 3
    assert "mlx-cpu==" in checkout.requirements


@pytest.mark.parametrize("device", ["tpu", "", "cpu cuda12"])
def test_an_unknown_device_is_refused_in_one_line(tmp_path: Path, device: str) -> None:
    command = ["make", "-f", str(ROOT / "Makefile"), "test", f"DEVICE={device}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode != 0
    assert f"DEVICE is '{device}'; it may be cpu, cuda12 or cuda13" in run.stderr
