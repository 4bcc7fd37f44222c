"""A fresh clone of this work tree, in which the whole pipeline runs."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mondrian.critique.schema import serialize_critique
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.writing_style import write_critique
from tests.conftest import ROOT, SAMPLE_SEED
from tests.waiting import PATIENCE

SMALL_SAMPLE = 48  # photos


class Clone:
    """A git clone in `folder`/mondrian with this environment and `folder` as HOME."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mondrian"
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "HOME": str(folder),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }

    def run(self, *command: object) -> str:
        """Run a command in the clone; return its stdout."""
        done = self.complete(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def fail(self, *command: object) -> str:
        """Run a command that fails without a traceback; return its stderr."""
        done = self.complete(*command)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    def complete(self, *command: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def mondrian(self, *arguments: object) -> str:
        return self.run(sys.executable, "-m", "mondrian", *arguments)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def metrics(self, advisor: str, stage: str) -> Any:
        return json.loads((self.folder / "metrics" / advisor / f"{stage}.json").read_text())


def copy_work_tree(folder: Path, omitted: tuple[str, ...]) -> None:
    """Copy the files of this work tree that git does not ignore; no dvc.lock, nothing omitted."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        if name.startswith(omitted) or name.endswith("dvc.lock") or not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def make_clone(folder: Path) -> Clone:
    """Commit all files of this work tree to a new repository, without the pipeline's outputs."""
    clone = Clone(folder)
    copy_work_tree(clone.folder, ("metrics/",))
    clone.run("git", "init", "-q")
    clone.commit("clone")
    return clone


def make_small_clone(folder: Path) -> Clone:
    """Make a clone whose pipeline takes a minute: one advisor, few photos, epochs and samples.

    Its application is beside it, in `folder`/application.
    """
    clone = make_clone(folder)
    application = folder / "application"
    write_small_application(application)
    path = clone.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["advisors"] = ["ansel"]
    params["application"] = {
        "db_path": str(application / "mondrian.db"),
        **dict.fromkeys(("source_dir", "analysis_dir", "html_dir"), str(application / "source")),
    }
    params["prepare"]["val_fraction"] = 0.17
    params["train"]["epochs"] = 3
    params["evaluate"]["few_shot_examples"] = 1
    params["evaluate"]["consistency"] |= {"photos": 1, "samples": 0}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    clone.commit("small sample")
    return clone


def copy_clone(clone: Clone, folder: Path) -> Clone:
    """Copy a clone with its outputs and DVC cache to `folder`/mondrian."""
    shutil.copytree(clone.folder, folder / "mondrian", symlinks=True)
    return Clone(folder)


def write_small_application(folder: Path) -> None:
    """Write mondrian.db with one critique of each photo, and the photos."""
    (folder / "source").mkdir(parents=True)
    connection = sqlite3.connect(folder / "mondrian.db")
    connection.execute("CREATE TABLE jobs (id, filename, advisor, status, analysis_markdown)")
    for i in range(SMALL_SAMPLE):
        scene, name = draw_scene(SAMPLE_SEED, i), f"IMG_{i}.jpg"
        render(scene).save(folder / "source" / name, quality=90)
        text = serialize_critique(write_critique("ansel", scene))
        row = (f"job-{i}", name, "ansel", "completed", text)
        connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
