"""git as a command: queries of a repository, and a commit that leaves the index unchanged."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mondrian.core.errors import ReleaseError

_ENV = {"LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0"}
_NOISE = ("hint:", "warning:", "Please make sure", "and the repository exists")


def git(
    *args: str,
    root: Path = Path(),
    stdin: bytes = b"",
    index: Path | None = None,
    config: Sequence[str] = (),
) -> str:
    """Return the output of a git command, or raise ReleaseError with git's message."""
    output = git_bytes(*args, root=root, stdin=stdin, index=index, config=config)
    return output.decode(errors="replace").strip()


def git_bytes(
    *args: str,
    root: Path = Path(),
    stdin: bytes = b"",
    index: Path | None = None,
    config: Sequence[str] = (),
) -> bytes:
    """Return the output as bytes.

    index   file to use instead of the repository's index
    config  settings such as gpg.format=ssh, before those of any file or environment variable
    """
    settings = [word for setting in config for word in ("-c", setting)]
    env, command = os.environ | _ENV, ["git", *settings, *args]
    if index is not None:
        env["GIT_INDEX_FILE"] = str(index)
    try:
        process = subprocess.run(command, cwd=root, input=stdin, capture_output=True, env=env)
    except FileNotFoundError:
        raise ReleaseError(f"git is not installed, or {root} does not exist") from None
    if process.returncode:
        lines = process.stderr.decode(errors="replace").splitlines()
        lines = [line for line in lines if line.strip() and not line.startswith(_NOISE)]
        if any("tell me who you are" in line for line in lines):
            raise ReleaseError(
                'git does not know your name; run: git config --global user.name "Your Name", and '
                "git config --global user.email you@example.com"
            )
        message = "; ".join(line.removeprefix("fatal: ").strip() for line in lines)[:300]
        raise ReleaseError(f"git {args[0]}: {message or 'failed without a reason'}")
    return process.stdout


def read_head() -> str:
    """Return the commit of HEAD; raise ReleaseError unless run in the repository's top folder."""
    if git("rev-parse", "--show-prefix"):
        top = git("rev-parse", "--show-toplevel")
        raise ReleaseError(f"versions are tags of the whole repository; run in its folder {top}")
    return git("rev-parse", "--verify", "HEAD^{commit}")


def list_changed_paths(paths: Sequence[str]) -> list[str]:
    """Return those of the paths that differ from the last commit, untracked files included."""
    status = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    output = git_bytes(*status, "--", *paths).decode(errors="replace")
    return [line[3:] for line in output.split("\0") if line]


def read_file_at(commit: str, path: str, root: Path = Path()) -> bytes | None:
    """Return the content of a file in a commit, or None if it is not there."""
    try:
        return git_bytes("cat-file", "blob", f"{commit}:{path}", root=root)
    except ReleaseError:
        return None


def commit_files(parent: str, files: Mapping[str, bytes], message: str) -> str:
    """Commit files on top of HEAD and return the commit; staged changes are not included.

    The commit is created completely or not at all, and only if `parent` is still HEAD.
    """
    cache_info = []
    for path, content in files.items():
        blob = git("hash-object", "-w", "--stdin", stdin=content)
        cache_info += ["--cacheinfo", f"100644,{blob},{path}"]
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        git("read-tree", parent, index=index)
        git("update-index", "--add", *cache_info, index=index)
        tree = git("write-tree", index=index)
    commit = git("commit-tree", tree, "-p", parent, stdin=message.encode())
    git("update-ref", "-m", message.splitlines()[0], "HEAD", commit, parent)
    git("checkout", "HEAD", "--", *files)
    return commit


def repair_checkout(commit: str) -> None:
    """Check out the files of HEAD that an interrupted `commit_files` did not write."""
    names = git("diff-tree", "-r", "--name-only", "--no-commit-id", commit).splitlines()
    for name in names:
        file, previous = Path(name), read_file_at(f"{commit}^", name)
        if (file.read_bytes() if file.is_file() else None) == previous:
            git("checkout", commit, "--", name)
