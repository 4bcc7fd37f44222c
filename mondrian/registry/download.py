"""From elsewhere: an advisor's tags by git, and the files of a version by DVC, from any remote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from dvc_data.index import DataIndexDirError

from mondrian.core.errors import ReleaseError, one_line
from mondrian.registry import git
from mondrian.registry.release_record import Release, ReleaseFile

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where versions come from.

    repository  a URL or a path that git can fetch from
    remote      of DVC, by name; the default one where it is None
    remote_url  of that remote, in place of the one in the repository's .dvc/config
    """

    repository: str
    remote: str | None = None
    remote_url: str | None = None


def fetch_tags(source: Source, advisor: str, folder: Path) -> None:
    """Fill a folder with a repository of the advisor's tags, and no older history.

    Raises ReleaseError where git cannot reach it.
    """
    repository = source.repository
    if os.path.exists(repository):
        repository = os.path.abspath(repository)
    folder.mkdir()
    git.git("init", "-q", root=folder)
    tags = [f"+refs/tags/{advisor}{mark}*:refs/tags/{advisor}{mark}*" for mark in "@#"]
    tip = "+HEAD:refs/heads/tip"  # git finds fault with a fetch that finds nothing
    git.git("fetch", "-q", "--depth=1", "--no-tags", "--", repository, tip, *tags, root=folder)


def download(
    source: Source, folder: Path, release: Release, to: Path, bar: Callable[[int], object]
) -> None:
    """The files of a version, none longer than it was released; `bar` is told bytes.

    folder  that `fetch_tags` filled

    Raises ReleaseError where DVC cannot get one; OSError where the disk cannot take it.
    """
    with _translate_download_errors(source, release, "its files"):
        files = _open(source, folder, release).dvcfs
    for piece in release.files:
        translate_errors = partial(_translate_download_errors, source, release, piece.name)
        with translate_errors():
            opened = files.open(f"{release.path}/{piece.name}", "rb")
        with opened:
            _copy(opened, to / piece.name, piece, bar, translate_errors)


def _open(source: Source, folder: Path, release: Release) -> Any:
    """The repository at the version's tag, with the remote that is asked for.

    Raises ReleaseError where it names none.
    """
    config = _config(source)
    known = Repo(str(folder), rev=release.tag, config=config).config
    name, url = source.remote or known["core"].get("remote"), source.remote_url
    remote = known["remote"].get(name, {})
    if url and (not remote or _url_scheme(url) != _url_scheme(remote["url"])):
        name = "given"  # its own, without what is set for storage of another kind
    elif not name:
        raise ReleaseError(
            f"{source.repository} names no DVC remote; give --remote_url URL, or "
            "there: dvc remote add --default NAME URL, commit, release"
        )
    elif not remote:
        have = ", ".join(sorted(known["remote"])) or "none"
        raise ReleaseError(
            f"{source.repository} has no DVC remote {name} (it has {have}); give "
            "another --remote, or --remote_url"
        )
    remote_config = {"url": url} if url else None
    return Repo(
        str(folder), rev=release.tag, config=config, remote=name, remote_config=remote_config
    )


def _url_scheme(url: str) -> str:
    """s3, ssh, …; nothing for a folder."""
    return url.partition("://")[0] if "://" in url else ""


def _config(source: Source) -> dict[str, Any]:
    """Remotes of a repository on this machine as they are meant there; else its cache.

    A relative path counts from there, and what is not committed (.dvc/config.local) counts too.
    """
    if not os.path.isdir(source.repository):
        return {}
    try:
        with Repo(source.repository) as there:
            name = there.config["core"].get("remote")
            if name:
                return {"core": {"remote": name}, "remote": dict(there.config["remote"])}
            return {
                "core": {"remote": "its-cache"},
                "remote": {"its-cache": {"url": there.cache.local_cache_dir}},
            }
    except NotDvcRepoError:
        return {}  # a bare one


def _copy(
    opened: Any,
    to: Path,
    piece: ReleaseFile,
    bar: Callable[[int], object],
    translate_errors: Callable[[], AbstractContextManager[None]],
) -> None:
    left = piece.size + 1  # one more than there should be: it will be missed nowhere
    try:
        with to.open("wb") as file:
            while left:
                with translate_errors():
                    block = opened.read(min(_BLOCK, left))
                if not block:
                    break
                file.write(block)
                left -= len(block)
                bar(len(block))
    except OSError as error:
        error.filename = error.filename or str(to)  # a full disk says nothing of where
        raise


@contextmanager
def _translate_download_errors(source: Source, release: Release, what: str) -> Iterator[None]:
    """Other people's faults as one line; DVC lets those of any storage through."""
    try:
        yield
    except ReleaseError:
        raise
    except (FileNotFoundError, DataIndexDirError):
        raise ReleaseError(
            f"{release.tag}: {what} is not in the DVC remote; where it was released: "
            f"dvc push train@{release.advisor}"
        ) from None
    except Exception as error:
        first = one_line(error)
        raise ReleaseError(f"{release.tag}: DVC cannot get {what}: {first}") from None
