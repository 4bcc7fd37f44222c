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

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import ReleaseError
from mondrian.core.params import Params
from mondrian.model.provenance import (
    check_requirements,
    local_requirements,
    release_requirements,
)
from mondrian.registry import download, git, history, tags
from mondrian.registry.download import Source
from mondrian.registry.local_store import Shelf, check_integrity, read_local_record
from mondrian.registry.release_record import RELEASE_FILENAME, Release, read_record, record_path
from mondrian.registry.tags import TaggedVersion
from mondrian.registry.version import Version, check_name

MIN_FREE_BYTES = 64 << 20  # bytes that a disk has to have left afterwards


class SmokeTest(Protocol):
    """What tries an adapter: `Canary`."""

    def check_adapter(self, folder: Path, name: str) -> str: ...


@dataclass(frozen=True)
class VersionSelector:
    """Which version: by its number, or else by its stage."""

    rev: str | None
    stage: str | None

    def select(self, known: list[TaggedVersion], advisor: str) -> TaggedVersion:
        """The one of those that have a tag."""
        if self.stage is not None:
            return tags.find_by_stage(self.stage, known, advisor)
        return tags.find_by_version(self.rev or "", known, advisor)


@dataclass(frozen=True)
class PullResult:
    """bytes that were downloaded: 0 where the version was here and whole."""

    release: Release
    downloaded_bytes: int
    previous_version: Version | None
    critique: str


def pull(
    shelf: Shelf, selector: VersionSelector, source: Source, params: Params, trial: SmokeTest
) -> PullResult:
    """Put a version to use on this machine.

    Raises MondrianError that says what is wrong with it; then nothing is changed.
    """
    check_name(shelf.advisor)
    here = local_requirements(shelf.advisor, params)
    with shelf.lock(), shelf.staging_dir() as aside:
        download.fetch_tags(source, shelf.advisor, aside / "git")
        known = tags.list_tagged_versions(shelf.advisor, aside / "git")
        version = selector.select(known, shelf.advisor)
        record, release = _read_tagged_record(version, shelf.advisor, aside / "git")
        check_requirements(release_requirements(release), here, release.tag)
        fresh = not _is_installed(shelf, version.version, record, release)
        folder = shelf.version_dir(version.version)
        if fresh:
            folder = aside / "adapter"
            _download_and_verify(source, aside, release, record)
        with tqdm(desc=f"{release.tag}: tried", bar_format="{desc}", leave=False):
            critique = trial.check_adapter(folder, release.tag)
        before = shelf.serving_version()
        before = None if before == version.version else before
        _activate_version(shelf, version.version, record, folder)
    return PullResult(release, release.size if fresh else 0, before, critique)


def _read_tagged_record(
    version: TaggedVersion, advisor: str, folder: Path
) -> tuple[bytes, Release]:
    path = record_path(advisor, version.version)
    content = git.show(version.commit, path, folder)
    if content is None:
        raise ReleaseError(
            f"the tag {advisor}@{version.version} has no {path}: it was not made by "
            "mondrian release; release it"
        )
    return content, read_record(content, advisor, version.version, path)


def _is_installed(shelf: Shelf, version: Version, record: bytes, release: Release) -> bool:
    """Whether a version need not be downloaded.

    Raises ReleaseError where it is whole, but not what the tag says now.
    """
    try:
        local_record, known = read_local_record(shelf, version)
        check_integrity(shelf.version_dir(version), known)
    except (ReleaseError, OSError):
        return False
    if local_record != record:
        raise ReleaseError(
            f"{release.tag} is here and whole, and another than the repository's tag names now: a "
            f"version never changes. Who moved the tag? To take the new one all the same, remove "
            f"{shelf.version_dir(version)}"
        )
    return True


def _download_and_verify(source: Source, aside: Path, release: Release, record: bytes) -> None:
    """Download a version into aside/adapter and verify it there."""
    folder = aside / "adapter"
    folder.mkdir()
    free = shutil.disk_usage(folder).free
    if free < release.size + MIN_FREE_BYTES:
        raise ReleaseError(
            f"{release.tag} takes {release.size / 1e6:.0f} MB and {MIN_FREE_BYTES / 1e6:.0f} "
            f"MB to spare, {free / 1e6:.0f} MB are free; make room"
        )
    (folder / RELEASE_FILENAME).write_bytes(record)
    bar = tqdm(total=release.size, desc=release.tag, unit="B", unit_scale=True, leave=False)
    with bar:
        download.download(source, aside / "git", release, folder, bar.update)
    try:
        check_integrity(folder, release)
    except ReleaseError as error:
        raise ReleaseError(
            f"{error}; the DVC remote gave other bytes than were released. Where it "
            f"was released: dvc push train@{release.advisor}"
        ) from None
    actual_version = adapter_version(folder)
    if actual_version != release.adapter_version:
        raise ReleaseError(
            f"{release.tag} calls itself {release.adapter_version}, its files give "
            f"{actual_version}; release again"
        )


def _activate_version(shelf: Shelf, version: Version, record: bytes, folder: Path) -> None:
    if folder != shelf.version_dir(version):
        shelf.install(folder, version)
    serving, entries = shelf.serving_version(), shelf.entries()
    known = history.latest_entry(str(version), entries)
    if serving != version or known is None or not known.matches_record(record):
        entry = history.latest_entry(str(serving), entries)
        below = entry.before if entry else ()
        if serving not in (None, version):
            below = (
                str(serving),
                *(predecessor for predecessor in below if predecessor != str(version)),
            )
        shelf.activate(version, record, "pull", below)
    shelf.prune(version)
