"""Repositories with released adapters in seconds: real git, DVC and GTO, without training."""

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
from mondrian.evaluation.summary import COMPARISON_LABELS
from mondrian.registry.download import VersionSource
from mondrian.registry.local_store import LocalStore, check_integrity
from mondrian.registry.pull import PullResult, VersionSelector, pull
from mondrian.registry.release_record import (
    RELEASE_FILE,
    EstimateRecord,
    FinalTest,
    Release,
    read_record,
    serialize_record,
)
from mondrian.registry.signature import read_signers
from mondrian.registry.version import parse_version
from tests.clone import copy_work_tree
from tests.conftest import ROOT
from tests.service_process import make_adapter
from tests.waiting import PATIENCE

ADAPTER = "models/mondrian-tiny-lora-ansel"
EVALUATION = "metrics/ansel/evaluate.json"
METRICS = "metrics/ansel/metrics.json"
_OMITTED = ("tests/", "docs/", "benchmarks/", "metrics/", "releases/")  # not needed for a release
_OUTPUTS = {  # of all stages up to evaluate@ansel, except the adapter and its verdict
    "data/sample/mondrian": ("mondrian.db", "source/a", "analysis_md/a", "analysis/a"),
    "data/linked/ansel": ("a",),
    "data/prepared/ansel": ("a",),
    "data/preferences/ansel": ("a",),
    "metrics/ansel": (
        "link.json",
        "prepare.json",
        "preferences.json",
        "train.json",
        "train_timing.json",
        "crossvalidation.json",
        "crossvalidation.html",
        "evaluate_timing.json",
        "metrics.json",
        "reasons.csv",
        "loss.csv",
        "score_error.csv",
        "data_report.html",
        "split_report.html",
        "report.html",
        "comparison_report.json",
    ),
}


@dataclass(frozen=True)
class Project:
    """A checkout of this project with an adapter as if dvc repro had built it."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment with its own HOME and with this code, not the checkout's."""
        author = {
            f"GIT_{role}_{field}": "ann" if field == "NAME" else "ann@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for field in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return (
            os.environ
            | author
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
        """Return the output of a command that must succeed."""
        result = self.attempt(*command)
        output = f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
        assert result.returncode == 0, output
        return result.stdout

    def attempt(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            env=self.env,
            timeout=PATIENCE,
            capture_output=True,
            text=True,
        )

    def mondrian(self, *args: object) -> subprocess.CompletedProcess[str]:
        return self.attempt(sys.executable, "-m", "mondrian", *args)

    def commit(self, message: str = "work") -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def build(self, adapter: Path, **verdict: Any) -> None:
        """Write an adapter and a verdict as dvc repro would, and commit."""
        shutil.rmtree(self.folder / ADAPTER, ignore_errors=True)
        shutil.copytree(adapter, self.folder / ADAPTER)
        (self.folder / EVALUATION).write_text(json.dumps(make_metrics(**verdict), indent=2))
        upstream = () if (self.folder / "dvc.lock").exists() else ("-d",)
        self.run("dvc", "commit", "-q", "-f", *upstream, "train@ansel", "evaluate@ansel")
        self.commit(f"built {adapter.name}")

    def release(self, version: str, *flags: str) -> None:
        result = self.mondrian("release", "ansel", "--version", version, *flags)
        assert result.returncode == 0, result.stderr

    def tags(self) -> list[str]:
        return self.run("git", "tag").split()

    def head(self) -> str:
        return self.run("git", "rev-parse", "HEAD").strip()


def make_metrics(verdict: str = "BETTER", gain: float = 80.0) -> dict[str, Any]:
    """Return an evaluate.json with the fields that a release reads."""
    arm = {"score_mae": 0.96, "format_compliance": 1.0}
    estimate = {"mean": gain, "low": gain - 5, "high": gain + 5, "groups": 21}
    gates = {"compliance": 1.0, "index_low": 30.0, "constant_low": 0.8, "judgement_points": gain}
    return {
        "verdict": verdict,
        "photographs": 21,
        "photograph_groups": 21,
        "text_only_photographs": 0,
        "comparisons": dict.fromkeys(COMPARISON_LABELS, estimate),
        "base": {**arm, "quality_index": 47.4},
        "fine_tuned": {**arm, "quality_index": 85.8},
        "gates": {
            name: {"value": value, "threshold": 0.0, "holds": True} for name, value in gates.items()
        },
    }


def make_final_test(verdict: str = "INCONCLUSIVE", groups: int = 11) -> FinalTest:
    """Return what a test of this many photo groups said."""
    estimate = EstimateRecord(mean=9.5, low=-1.25, high=20.0, groups=groups)
    names = [name for name in COMPARISON_LABELS if name != "index_few_shot"]
    return FinalTest(
        verdict=verdict,
        photographs=groups + 1,
        photograph_groups=groups,
        text_only_photographs=0,
        comparisons=dict.fromkeys(names, estimate),
        rows_sha256="5" * 64,
    )


def make_project(folder: Path, adapter: Path) -> Project:
    """Create a project whose dvc.lock says that this adapter was built."""
    copy_work_tree(folder, _OMITTED)
    for output_dir, names in _OUTPUTS.items():
        for name in names:
            (folder / output_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / output_dir / name).write_text("{}")
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main")
    project.build(adapter)
    return project


def make_key(path: Path, passphrase: str = "") -> Path:
    """Write an SSH key, and its public one beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def make_released(
    folder: Path, versions: dict[str, Path], keys: dict[str, Path] | None = None
) -> Project:
    """Create a project with these versions, v1 and then v2 prod, v3 canary, and a DVC remote.

    keys  SSH keys that sign some of the versions
    """
    project = make_project(folder, next(iter(versions.values())))
    project.run("dvc", "remote", "add", "-q", "--default", "store", "../store")
    project.commit("DVC remote")
    for version, adapter in versions.items():
        if adapter != next(iter(versions.values())):
            project.build(adapter)
        key = (keys or {}).get(version)
        project.release(version, *(("--sign", str(key)) if key else ()))
    shutil.copytree(folder / ".dvc/cache", folder.parent / "store")  # as dvc push lays it out
    for version, stage in (("v1", "prod"), ("v2", "prod"), ("v3", "canary")):
        project.mondrian("promote", "ansel", "--version", version, "--stage", stage)
    return project


def write_release(folder: Path, version: str = "v1.0.0") -> Release:
    """Write a folder with a few bytes instead of an adapter, and the release that names them."""
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "recipe.json"):
        (folder / name).write_text(f"{name} of {version}\n")
    files = [
        {"name": file.name, "size": file.stat().st_size, "sha256": file_hash(file)}
        for file in sorted(folder.iterdir())
    ]
    metrics = make_metrics()
    figures = {
        "index": 85.8,
        "base_index": 47.4,
        "score_mae": 0.96,
        "base_score_mae": 2.8,
        "compliance": 1.0,
    }
    verdict = {key: metrics[key] for key in ("verdict", "photographs", "gates")}
    release = Release.model_validate_json(
        json.dumps(
            {
                "form": 1,
                "advisor": "ansel",
                "version": version,
                "files": files,
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
    (folder / RELEASE_FILE).write_bytes(serialize_record(release))
    return release


def copy_project(project: Project, folder: Path) -> Project:
    """Copy a checkout with its history, outputs and DVC cache."""
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


def make_adapters(tiny: Any, folder: Path, params: Params, count: int) -> list[Path]:
    """Write small real adapters, as dvc repro would."""
    adapters = []
    for seed in range(1, count + 1):
        adapter = make_adapter(tiny, folder / f"seed-{seed}", "ansel", params, seed)
        recipe = json.loads((adapter / "recipe.json").read_text())
        (adapter / "recipe.json").write_text(json.dumps(recipe | {"data_sha256": "0" * 64}))
        (adapter / "training_log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        adapters.append(adapter)
    return adapters


def pass_smoke_test(folder: Path, name: str) -> None:
    """Pass without loading a model."""


@dataclass(frozen=True)
class Mac:
    """A serving machine, and the source of its versions."""

    store: LocalStore
    source: VersionSource
    params: Params

    def pull(self, rev: str, fault: str = "", signers: Path | None = None) -> PullResult:
        """Pull without a model; the smoke test fails if there is a fault."""

        def smoke_test(folder: Path, name: str) -> None:
            if fault:
                raise ReleaseError(fault)

        selector = VersionSelector(rev, None, read_signers(str(signers)) if signers else None)
        return pull(self.store, selector, self.source, self.params, smoke_test)

    def active(self) -> str | None:
        """Return the active version, after a check of every byte."""
        folder = self.store.current_link
        if not folder.is_symlink():
            return None
        version = folder.readlink().name.rpartition("@")[2]
        content = (folder / RELEASE_FILE).read_bytes()
        check_integrity(
            folder, read_record(content, "ansel", parse_version(version), "release.json")
        )
        return version

    def leftovers(self) -> list[str]:
        """Return the names of temporary folders."""
        return [path.name for path in self.store.folder.glob(".left-*")]
