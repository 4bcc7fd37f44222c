"""git, as a command: what is asked of a repository, and one commit that leaves the index alone."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mondrian.core.errors import ReleaseError

_ENV = {"LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0"}
_NOISE = ("hint:", "warning:", "Please make sure", "and the repository exists")


def git(*words: str, root: Path = Path(), stdin: bytes = b"", env: Mapping[str, str] = {}) -> str:
    """What a git command says.

    Raises ReleaseError with git's own reason where it fails.
    """
    return git_bytes(*words, root=root, stdin=stdin, env=env).decode(errors="replace").strip()


def git_bytes(
    *words: str, root: Path = Path(), stdin: bytes = b"", env: Mapping[str, str] = {}
) -> bytes:
    """The same, byte for byte."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=root,
            input=stdin,
            capture_output=True,
            env=os.environ | _ENV | dict(env),
            check=False,
        )
    except FileNotFoundError:
        raise ReleaseError(
            "there is no git on this machine, or no such folder; install git"
        ) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        messages = [
            line.removeprefix("fatal: ").strip()
            for line in lines
            if line.strip() and not line.startswith(_NOISE)
        ]
        raise ReleaseError(
            f"git {words[0]}: {'; '.join(messages)[:300] or 'failed without a reason'}"
        )
    return done.stdout


def head() -> str:
    """The commit that is checked out.

    Raises ReleaseError where there is none, or this is not the top folder of its repository.
    """
    if git("rev-parse", "--show-prefix"):
        top = git("rev-parse", "--show-toplevel")
        raise ReleaseError(
            f"versions are tags of the whole repository; run in its top folder {top}"
        )
    return git("rev-parse", "--verify", "HEAD^{commit}")


def list_changed_paths(paths: Sequence[str]) -> list[str]:
    """Those of some paths that are not as in the last commit; files without a commit too."""
    output = git_bytes(
        "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *paths
    )
    return [line[3:] for line in output.decode(errors="replace").split("\0") if line]


def show(commit: str, path: str, root: Path = Path()) -> bytes | None:
    """A file as it is in a commit; None where it is not in it."""
    try:
        return git_bytes("cat-file", "blob", f"{commit}:{path}", root=root)
    except ReleaseError:
        return None


def commit_files(parent: str, files: Mapping[str, bytes], message: str) -> str:
    """Put some files on top of the commit that is checked out; nothing else of the index goes in.

    The commit appears at once or not at all, and only if `parent` is still the last one.
    """
    blobs = {
        path: git("hash-object", "-w", "--stdin", stdin=content) for path, content in files.items()
    }
    entries = [f"100644,{blob},{path}" for path, blob in blobs.items()]
    add = [word for entry in entries for word in ("--cacheinfo", entry)]
    with tempfile.TemporaryDirectory() as folder:
        aside = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", parent, env=aside)
        git("update-index", "--add", *add, env=aside)
        tree = git("write-tree", env=aside)
    commit = git("commit-tree", tree, "-p", parent, stdin=message.encode())
    git("update-ref", "-m", message.splitlines()[0], "HEAD", commit, parent)
    git("checkout", "HEAD", "--", *files)
    return commit


def repair_checkout(commit: str) -> None:
    """Write out files of the last commit where a killed `commit_files` did not come to it."""
    names = git("diff-tree", "-r", "--name-only", "--no-commit-id", commit).splitlines()
    for name in names:
        file, before = Path(name), show(f"{commit}^", name)
        if (file.read_bytes() if file.is_file() else None) == before:
            git("checkout", commit, "--", name)
