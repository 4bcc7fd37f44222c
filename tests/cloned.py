"""A fresh clone of this work tree, in which the whole pipeline runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


class Clone:
    """A clone of the work tree as it is, with this environment and a HOME of its own."""

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

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def metrics(self, advisor: str, stage: str) -> Any:
        return json.loads((self.folder / "metrics" / advisor / f"{stage}.json").read_text())


def cloned(folder: Path) -> Clone:
    """The files that git has or would take, but what a run here has made, as a first commit."""
    made = Clone(folder)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        made_here = name.endswith("dvc.lock") or name.startswith("metrics/")
        if (ROOT / name).is_file() and not made_here:
            target = made.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    made.run("git", "init", "-q")
    made.commit("clone")
    return made
