"""Repositories with released adapters, made in seconds: real git, DVC and GTO, nothing trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import ReleaseError
from mondrian.core.files import file_hash
from mondrian.core.params import Params
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf, check_integrity
from mondrian.registry.pull import PullResult, VersionSelector, pull
from mondrian.registry.release_record import (
    RELEASE_FILENAME,
    Release,
    read_record,
    serialize_record,
)
from mondrian.registry.version import parse_version
from tests.conftest import ROOT
from tests.service_process import make_adapter

ADAPTER = "models/mondrian-tiny-lora-ansel"
METRICS = "metrics/ansel/evaluate.json"
_MADE = ("tests/", "docs/", "benchmarks/", "metrics/", "releases/")  # what a project can do without
_OUTPUTS = {  # of all stages up to evaluate@ansel, but the adapter and its verdict
    "data/sample/mondrian": ("mondrian.db", "source/a", "analysis_md/a", "analysis/a"),
    "data/linked/ansel": ("a",),
    "data/prepared/ansel": ("a",),
    "metrics/ansel": (
        "link.json",
        "prepare.json",
        "train.json",
        "reasons.csv",
        "train_loss.csv",
        "val_loss.csv",
        "score_error.csv",
        "data_report.html",
        "report.html",
        "comparison_report.json",
    ),
}


@dataclass(frozen=True)
class Project:
    """A checkout of this project with an adapter that dvc repro seems to have built."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """This environment, with a HOME of its own and this code rather than the checkout's."""
        who = {
            f"GIT_{role}_{what}": "ann" if what == "NAME" else "ann@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return (
            os.environ
            | who
            | {
                "PATH": path,
                "PYTHONPATH": str(ROOT),
                "PYTHONSAFEPATH": "1",
                "DVC_NO_ANALYTICS": "1",
                "HOME": str(self.folder.parent),
                "GIT_CONFIG_GLOBAL": os.devnull,
            }
        )

    def run(self, *command: object) -> str:
        """What a command says that has to succeed."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def attempt(self, *command: object) -> subprocess.CompletedProcess[str]:
        """A command that may fail."""
        return subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            env=self.env,
            timeout=120,
            capture_output=True,
            text=True,
        )

    def mondrian(self, *words: object) -> subprocess.CompletedProcess[str]:
        """The command line, in this project."""
        return self.attempt(sys.executable, "-m", "mondrian", *words)

    def commit(self, message: str = "work") -> None:
        """All that is not ignored."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def build(self, adapter: Path, **verdict: Any) -> None:
        """Put an adapter and a verdict where dvc repro would, and commit."""
        shutil.rmtree(self.folder / ADAPTER, ignore_errors=True)
        shutil.copytree(adapter, self.folder / ADAPTER)
        (self.folder / METRICS).write_text(json.dumps(evaluation(**verdict), indent=2))
        new = () if (self.folder / "dvc.lock").exists() else ("-d",)  # else upstream is as it was
        self.run("dvc", "commit", "-q", "-f", *new, "train@ansel", "evaluate@ansel")
        self.commit(f"built {adapter.name}")

    def release(self, version: str, *words: str) -> None:
        """Release what is built and push it, where there is a DVC remote."""
        done = self.mondrian("release", "ansel", "--version", version, *words)
        assert done.returncode == 0, done.stderr

    def tags(self) -> list[str]:
        """All of them."""
        return self.run("git", "tag").split()

    def head(self) -> str:
        """The last commit."""
        return self.run("git", "rev-parse", "HEAD").strip()


def evaluation(verdict: str = "BETTER", gain: float = 80.0) -> dict[str, Any]:
    """An evaluate.json with what a release reads of it."""
    arm = {"score_mae": 0.96, "format_compliance": 1.0}
    gates = {"compliance": 1.0, "index_low": 30.0, "constant_low": 0.8, "index_gain_percent": gain}
    return {
        "verdict": verdict,
        "photographs": 21,
        "base": {**arm, "quality_index": 47.4},
        "fine_tuned": {**arm, "quality_index": 85.8},
        "gates": {
            name: {"value": value, "threshold": 0.0, "holds": True} for name, value in gates.items()
        },
    }


def make_project(folder: Path, adapter: Path) -> Project:
    """A project whose dvc.lock says that this adapter was built."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in listed:
        if name.startswith(_MADE) or name.endswith("dvc.lock") or not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for place, names in _OUTPUTS.items():
        for name in names:
            (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_text("{}")
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main")
    project.build(adapter)
    return project


def make_released(folder: Path, versions: dict[str, Path]) -> Project:
    """A project with these versions, v1 and then v2 prod, v3 canary; a DVC remote beside it."""
    project = make_project(folder, next(iter(versions.values())))
    project.run("dvc", "remote", "add", "-q", "--default", "store", "../store")
    project.commit("DVC remote")
    for version, adapter in versions.items():
        if adapter != next(iter(versions.values())):
            project.build(adapter)
        project.release(version)
    shutil.copytree(folder / ".dvc/cache", folder.parent / "store")  # as dvc push lays it out
    for version, stage in (("v1", "prod"), ("v2", "prod"), ("v3", "canary")):
        project.mondrian("promote", "ansel", "--version", version, "--stage", stage)
    return project


def some_release(folder: Path, version: str = "v1.0.0") -> Release:
    """A folder with a few bytes that are no adapter, and the release that names them."""
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "recipe.json"):
        (folder / name).write_text(f"{name} of {version}\n")
    pieces = [
        {"name": file.name, "size": file.stat().st_size, "sha256": file_hash(file)}
        for file in sorted(folder.iterdir())
    ]
    found = evaluation()
    figures = {
        "index": 85.8,
        "base_index": 47.4,
        "score_mae": 0.96,
        "base_score_mae": 2.8,
        "compliance": 1.0,
    }
    verdict = {key: found[key] for key in ("verdict", "photographs", "gates")}
    release = Release.model_validate_json(
        json.dumps(
            {
                "form": 1,
                "advisor": "ansel",
                "version": version,
                "files": pieces,
                "path": ADAPTER,
                "adapter_version": adapter_version(folder),
                "base": {"source": "b", "sha256": "0" * 64},
                "prompt_sha256": "1" * 64,
                "schema_sha256": "2" * 64,
                "data_sha256": "3" * 64,
                "image": {"min_pixels": 1, "max_pixels": 2},
                "commit": "4" * 40,
                "by": "ann",
                "released_at": "2026-01-02T03:04:05+00:00",
                "reason": None,
                "evaluation": verdict | {"figures": figures, "failed": []},
            }
        )
    )
    (folder / RELEASE_FILENAME).write_bytes(serialize_record(release))
    return release


def copy_of(project: Project, folder: Path) -> Project:
    """Another checkout with the same history, outputs and DVC cache."""
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


def make_adapters(tiny: Any, folder: Path, params: Params, count: int) -> list[Path]:
    """So many small real adapters, as dvc repro would leave them."""
    out = []
    for seed in range(1, count + 1):
        made = make_adapter(tiny, folder / f"seed-{seed}", "ansel", params, seed)
        recipe = json.loads((made / "recipe.json").read_text())
        (made / "recipe.json").write_text(json.dumps(recipe | {"data_sha256": "0" * 64}))
        (made / "training_log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        out.append(made)
    return out


@dataclass
class Trusting:
    """A canary that says yes, where the model is not the point; `fault` makes it say no."""

    fault: str = ""

    def check_adapter(self, folder: Path, name: str) -> str:
        if self.fault:
            raise ReleaseError(self.fault)
        return "{}"


@dataclass(frozen=True)
class Mac:
    """A machine that serves: what is pulled to it, and from where."""

    shelf: Shelf
    source: Source
    params: Params

    def pull(self, rev: str, fault: str = "") -> PullResult:
        """Without a model."""
        return pull(
            self.shelf, VersionSelector(rev, None), self.source, self.params, Trusting(fault)
        )

    def serves(self) -> str | None:
        """The version that serves, which has to be whole to the byte."""
        folder = self.shelf.current_link
        if not folder.is_symlink():
            return None
        version = folder.readlink().name.rpartition("@")[2]
        content = (folder / RELEASE_FILENAME).read_bytes()
        check_integrity(
            folder, read_record(content, "ansel", parse_version(version), "release.json")
        )
        return version

    def left(self) -> list[str]:
        """What lies about of a pull that is over."""
        return [path.name for path in self.shelf.folder.glob(".left-*")]
