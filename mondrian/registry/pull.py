"""A released version comes to this machine, is held to its release, tried, and put to use.

Nothing that serves is touched before the last step, one rename. Whatever goes wrong before it, and
whenever the process is killed, what served goes on serving.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from mondrian.core.errors import ReleaseError
from mondrian.core.params import Params
from mondrian.model.compatibility import adapter_version, check_terms, terms_here, terms_of
from mondrian.registry import download, git, history, tags
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf, check_whole, read_kept
from mondrian.registry.release_record import RELEASE, Release, read_record, record_path
from mondrian.registry.tags import Tagged
from mondrian.registry.version import Version, check_name

SPARE = 64 << 20  # bytes that a disk has to have left afterwards


class Trial(Protocol):
    """What tries an adapter: `Canary`."""

    def prove(self, folder: Path, name: str) -> str: ...


@dataclass(frozen=True)
class Asked:
    """Which version: by its number, or else by its stage."""

    rev: str | None
    stage: str | None

    def among(self, known: list[Tagged], advisor: str) -> Tagged:
        """The one of those that have a tag."""
        if self.stage is not None:
            return tags.version_in(self.stage, known, advisor)
        return tags.version_at(self.rev or "", known, advisor)


@dataclass(frozen=True)
class Pulled:
    """bytes that were downloaded: 0 where the version was here and whole."""

    release: Release
    bytes: int
    before: Version | None
    critique: str


def pull(shelf: Shelf, asked: Asked, source: Source, params: Params, trial: Trial) -> Pulled:
    """Put a version to use on this machine.

    Raises MondrianError that says what is wrong with it; then nothing is changed.
    """
    check_name(shelf.advisor)
    here = terms_here(shelf.advisor, params)
    with shelf.alone(), shelf.aside() as aside:
        download.fetch_tags(source, shelf.advisor, aside / "git")
        known = tags.tagged(shelf.advisor, aside / "git")
        version = asked.among(known, shelf.advisor)
        record, release = _record(version, shelf.advisor, aside / "git")
        check_terms(terms_of(release), here, release.tag)
        fresh = not _is_here(shelf, version.version, record, release)
        folder = shelf.place(version.version)
        if fresh:
            folder = aside / "adapter"
            _bring(source, aside, release, record)
        with tqdm(desc=f"{release.tag}: tried", bar_format="{desc}", leave=False):
            critique = trial.prove(folder, release.tag)
        before = shelf.serving()
        before = None if before == version.version else before
        _put_to_use(shelf, version.version, record, folder)
    return Pulled(release, release.size if fresh else 0, before, critique)


def _record(version: Tagged, advisor: str, folder: Path) -> tuple[bytes, Release]:
    path = record_path(advisor, version.version)
    content = git.show(version.commit, path, folder)
    if content is None:
        raise ReleaseError(f"the tag {advisor}@{version.version} has no {path}: it was not made by "
                           "mondrian release; release it")  # fmt: skip
    return content, read_record(content, advisor, version.version, path)


def _is_here(shelf: Shelf, version: Version, record: bytes, release: Release) -> bool:
    """Whether a version need not be downloaded.

    Raises ReleaseError where it is whole, but not what the tag says now.
    """
    try:
        kept, known = read_kept(shelf, version)
        check_whole(shelf.place(version), known)
    except (ReleaseError, OSError):
        return False
    if kept != record:
        raise ReleaseError(
            f"{release.tag} is here and whole, and another than the repository's tag names now: a "
            f"version never changes. Who moved the tag? To take the new one all the same, remove "
            f"{shelf.place(version)}"
        )
    return True


def _bring(source: Source, aside: Path, release: Release, record: bytes) -> None:
    """Download a version into aside/adapter and verify it there."""
    folder = aside / "adapter"
    folder.mkdir()
    free = shutil.disk_usage(folder).free
    if free < release.size + SPARE:
        raise ReleaseError(f"{release.tag} takes {release.size / 1e6:.0f} MB and {SPARE / 1e6:.0f} "
                           f"MB to spare, {free / 1e6:.0f} MB are free; make room")  # fmt: skip
    (folder / RELEASE).write_bytes(record)
    bar = tqdm(total=release.size, desc=release.tag, unit="B", unit_scale=True, leave=False)
    with bar:
        download.download(source, aside / "git", release, folder, bar.update)
    try:
        check_whole(folder, release)
    except ReleaseError as error:
        raise ReleaseError(f"{error}; the DVC remote gave other bytes than were released. Where it "
                           f"was released: dvc push train@{release.advisor}") from None  # fmt: skip
    found = adapter_version(folder)
    if found != release.adapter_version:
        raise ReleaseError(f"{release.tag} calls itself {release.adapter_version}, its files give "
                           f"{found}; release again")  # fmt: skip


def _put_to_use(shelf: Shelf, version: Version, record: bytes, folder: Path) -> None:
    if folder != shelf.place(version):
        shelf.take(folder, version)
    serving, entries = shelf.serving(), shelf.entries()
    known = history.last_of(str(version), entries)
    if serving != version or known is None or not known.is_of(record):
        entry = history.last_of(str(serving), entries)
        below = entry.before if entry else ()
        if serving not in (None, version):
            below = (str(serving), *(one for one in below if one != str(version)))
        shelf.switch(version, record, "pull", below)
    shelf.prune(version)
