"""Fetch an advisor's tags with git, and the files of a version with DVC from any remote."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from dvc_data.index import DataIndexDirError

from mondrian.core.errors import ReleaseError, one_line
from mondrian.registry import git
from mondrian.registry.release_record import Release, ReleaseFile

_BLOCK_BYTES = 1 << 20
OnBytes = Callable[[int], object]  # called with the size of each block


@dataclass(frozen=True)
class VersionSource:
    """The git repository and the DVC remote of versions."""

    repository: str  # URL or path that git can fetch from
    remote: str | None = None  # name of a DVC remote, if not the default one
    remote_url: str | None = None  # instead of the remote's URL in the repository's .dvc/config


def fetch_tags(source: VersionSource, advisor: str, folder: Path) -> None:
    """Create a repository in `folder` with the advisor's tags and no older history."""
    repository = source.repository
    if os.path.exists(repository):
        repository = os.path.abspath(repository)
    folder.mkdir()
    git.git("init", "-q", root=folder)
    tags = [f"+refs/tags/{advisor}{mark}*:refs/tags/{advisor}{mark}*" for mark in "@#"]
    tip = "+HEAD:refs/heads/tip"  # without it, git fails if there are no tags
    fetch = ("fetch", "-q", "--depth=1", "--no-tags", "--", repository)
    try:
        git.git(*fetch, tip, *tags, root=folder)
    except ReleaseError as error:
        if "remote ref HEAD" not in str(error):
            raise
        git.git(*fetch, *tags, root=folder)  # its HEAD names a branch that was never pushed


def download(
    source: VersionSource, repo_folder: Path, release: Release, folder: Path, on_bytes: OnBytes
) -> None:
    """Download the files of a version, none longer than released; `fetch_tags` came before.

    Raises ReleaseError if DVC cannot read a file, OSError if it cannot be written.
    """
    with _translate_errors(release, "its files"):
        files = _open_repo(source, repo_folder, release).dvcfs
    for file in release.files:
        target = folder / file.name
        try:
            with target.open("wb") as output:
                for block in _read_blocks(files, release, file):
                    output.write(block)
                    on_bytes(len(block))
        except OSError as error:
            error.filename = error.filename or str(target)  # missing if the disk is full
            raise


def _read_blocks(files: Any, release: Release, file: ReleaseFile) -> Iterator[bytes]:
    """Yield the content of a file, at most one byte more than its size to detect a longer one."""
    remaining = file.size + 1
    path = f"{release.path}/{file.name}"
    with _translate_errors(release, file.name), files.open(path, "rb") as reader:
        while remaining and (block := reader.read(min(_BLOCK_BYTES, remaining))):
            remaining -= len(block)
            yield block


def _open_repo(source: VersionSource, repo_folder: Path, release: Release) -> Repo:
    """Open the repository at the version's tag with the requested remote, or raise ReleaseError."""
    base_config = _read_source_config(source)
    config = Repo(str(repo_folder), rev=release.tag, config=base_config).config
    name, url = source.remote or config["core"].get("remote"), source.remote_url
    remote = config["remote"].get(name, {})
    if url and (not remote or urlsplit(url).scheme != urlsplit(remote["url"]).scheme):
        name = "given"  # a new remote: settings for another kind of storage do not apply
    elif not name:
        raise ReleaseError(
            f"{source.repository} names no DVC remote; give --remote_url URL, or "
            "there: dvc remote add --default NAME URL, commit, release"
        )
    elif not remote:
        known = ", ".join(sorted(config["remote"])) or "none"
        raise ReleaseError(
            f"{source.repository} has no DVC remote {name} (it has {known}); give another "
            "--remote, or --remote_url"
        )
    options = {"remote": name, "remote_config": {"url": url} if url else None}
    return Repo(str(repo_folder), rev=release.tag, config=base_config, **options)


def _read_source_config(source: VersionSource) -> dict[str, Any]:
    """Return the remotes of a repository on this machine, or its cache if it has none.

    Relative paths are resolved there, and .dvc/config.local is included.
    """
    if not os.path.isdir(source.repository):
        return {}
    try:
        with Repo(source.repository) as repo:
            if name := repo.config["core"].get("remote"):
                return {"core": {"remote": name}, "remote": dict(repo.config["remote"])}
            cache = {"url": repo.cache.local_cache_dir}
            return {"core": {"remote": "its-cache"}, "remote": {"its-cache": cache}}
    except NotDvcRepoError:  # a bare repository
        return {}


@contextmanager
def _translate_errors(release: Release, name: str) -> Iterator[None]:
    """Turn any error of DVC and its storage libraries into a ReleaseError of one line."""
    try:
        yield
    except ReleaseError:
        raise
    except (FileNotFoundError, DataIndexDirError):
        raise ReleaseError(
            f"{release.tag}: {name} is not in the DVC remote; on the machine that released it: "
            f"dvc push train@{release.advisor}"
        ) from None
    except Exception as error:
        raise ReleaseError(f"{release.tag}: DVC cannot get {name}: {one_line(error)}") from None
