"""Pull: download, verify, smoke-test and activate a version. Rollback: activate the previous one.

The active version is not touched before the last step, one rename. If a step before it fails, or
the process is killed, it stays active.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mondrian.core.adapter_folder import adapter_version
from mondrian.core.errors import ReleaseError
from mondrian.core.params import Params
from mondrian.core.terminal import progress_bar
from mondrian.model.provenance import AdapterRequirements, check_requirements, local_requirements
from mondrian.registry import download, git, tags
from mondrian.registry.download import VersionSource
from mondrian.registry.local_store import LocalStore, check_integrity, read_local_record
from mondrian.registry.release_record import (
    CARD_FILE,
    RELEASE_FILE,
    Release,
    card_path,
    read_record,
    record_path,
)
from mondrian.registry.signature import Signers
from mondrian.registry.tags import TaggedVersion
from mondrian.registry.version import Version, check_name, parse_version, version_tag

MIN_FREE_BYTES = 64 << 20  # that a download must leave on the disk
SmokeTest = Callable[[Path, str], object]  # of an adapter folder, named by its tag; may raise


@dataclass(frozen=True)
class VersionSelector:
    """A version by its number, or by its stage, and the keys that must have signed it, if any."""

    rev: str | None
    stage: str | None
    signers: Signers | None = None

    def select(self, versions: list[TaggedVersion], advisor: str) -> TaggedVersion:
        if self.stage is not None:
            return tags.find_by_stage(self.stage, versions, advisor)
        return tags.find_by_version(self.rev or "", versions, advisor)


@dataclass(frozen=True)
class TagContent:
    """What the tag of a version holds; `card` is None in versions without one."""

    record: bytes  # release.json
    release: Release
    card: bytes | None
    signer: str | None


@dataclass(frozen=True)
class PullResult:
    """The pulled release; `downloaded_bytes` is 0 if an intact copy was already here."""

    release: Release
    downloaded_bytes: int
    previous_version: Version | None
    signer: str | None  # None if no signature was asked for


@dataclass(frozen=True)
class RollbackResult:
    replaced_version: Version
    version: Version


def pull(
    store: LocalStore,
    selector: VersionSelector,
    source: VersionSource,
    params: Params,
    smoke_test: SmokeTest,
) -> PullResult:
    """Activate a version, or raise MondrianError and change nothing."""
    advisor = store.advisor
    check_name(advisor)
    local = local_requirements(advisor, params)
    with store.lock(), store.create_staging_folder() as staging:
        repo_folder, folder = staging / "git", staging / "adapter"
        download.fetch_tags(source, advisor, repo_folder)
        tagged = selector.select(tags.list_tagged_versions(advisor, repo_folder), advisor)
        version = tagged.version
        content = _read_tag(tagged, advisor, repo_folder, selector.signers)
        record, release = content.record, content.release
        hashes = (release.prompt_sha256, release.schema_sha256)
        required = AdapterRequirements(release.advisor, *hashes, release.image)
        check_requirements(required, local, release.tag)
        is_installed = _is_installed(store, version, record, release)
        if is_installed:
            folder = store.version_folder(version)
        else:
            _download_and_verify(source, repo_folder, content, folder)
        with progress_bar(desc=f"{release.tag}: smoke test", bar_format="{desc}"):
            smoke_test(folder, release.tag)
        previous = store.active_version()
        if not is_installed:
            store.install(folder, version)
        _activate(store, version, record)
    downloaded_bytes = 0 if is_installed else release.size
    before = None if previous == version else previous
    return PullResult(release, downloaded_bytes, before, content.signer)


def _read_tag(
    tagged: TaggedVersion, advisor: str, repo_folder: Path, signers: Signers | None
) -> TagContent:
    """Return what a tag holds; raise ReleaseError before it is parsed if its signature is bad."""
    version, path = tagged.version, record_path(advisor, tagged.version)
    tag = version_tag(advisor, version)
    record = git.read_file_at(tagged.commit, path, repo_folder)
    if record is None:
        raise ReleaseError(
            f"the tag {tag} has no {path}, so it was not made by mondrian release; release it"
        )
    signer = signers.verify(repo_folder, tag, tagged.commit, record) if signers else None
    release = read_record(record, advisor, version, path)
    card = git.read_file_at(tagged.commit, card_path(advisor, version), repo_folder)
    if release.card and (card is None or sha256(card).hexdigest() != release.card.sha256):
        raise ReleaseError(
            f"{tag}: {card_path(advisor, version)} is not as released; who changed it? Release "
            "the next version"
        )
    return TagContent(record, release, card if release.card else None, signer)


def _is_installed(store: LocalStore, version: Version, record: bytes, release: Release) -> bool:
    """Return whether an intact copy is here; raise ReleaseError if the tag now names another."""
    try:
        local_record, local_release = read_local_record(store, version)
        check_integrity(store.version_folder(version), local_release)
    except (ReleaseError, OSError):
        return False
    if local_record != record:
        raise ReleaseError(
            f"{release.tag} is installed and intact, but the repository's tag now names another "
            "release: a version never changes. Who moved the tag? To install the new one anyway, "
            f"remove {store.version_folder(version)}"
        )
    return True


def _download_and_verify(
    source: VersionSource, repo_folder: Path, content: TagContent, folder: Path
) -> None:
    release = content.release
    folder.mkdir()
    free = shutil.disk_usage(folder).free
    if free < release.size + MIN_FREE_BYTES:
        raise ReleaseError(
            f"{release.tag} needs {release.size / 1e6:.0f} MB and {MIN_FREE_BYTES / 1e6:.0f} MB "
            f"to spare, {free / 1e6:.0f} MB are free; free disk space"
        )
    (folder / RELEASE_FILE).write_bytes(content.record)
    if content.card is not None:
        (folder / CARD_FILE).write_bytes(content.card)
    with progress_bar(total=release.size, desc=release.tag, unit="B", unit_scale=True) as bar:
        download.download(source, repo_folder, release, folder, bar.update)
    try:
        check_integrity(folder, release)
    except ReleaseError as error:
        raise ReleaseError(
            f"{error}; the DVC remote has other bytes than were released. On the machine that "
            f"released it: dvc push train@{release.advisor}"
        ) from None
    actual_version = adapter_version(folder)
    if actual_version != release.adapter_version:
        raise ReleaseError(
            f"{release.tag} records adapter {release.adapter_version}, its files give "
            f"{actual_version}; release again"
        )


def _activate(store: LocalStore, version: Version, record: bytes) -> None:
    """Activate an installed version, unless it is active already, and prune old ones."""
    active, entry = store.active_version(), store.latest_entry(version)
    if active != version or entry is None or not entry.matches_record(record):
        active_entry = store.latest_entry(active)
        before = active_entry.before if active_entry else ()
        if active not in (None, version):
            before = (str(active), *(name for name in before if name != str(version)))
        store.activate(version, record, "pull", before)
    store.prune(version)


def activate_previous(store: LocalStore) -> RollbackResult:
    """Activate the previous version, or raise ReleaseError and change nothing."""
    advisor = store.advisor
    check_name(advisor)
    if store.active_version() is None:
        raise ReleaseError(f"no version is active in {store.folder}; mondrian pull {advisor} first")
    with store.lock():
        current = store.active_version()
        assert current is not None
        entry = store.latest_entry(current)
        if entry is None or not entry.before:
            raise ReleaseError(
                f"no version was active before {version_tag(advisor, current)} in {store.folder}; "
                f"pull one: mondrian pull {advisor} --rev V"
            )
        version = parse_version(entry.before[0])
        try:
            record, release = read_local_record(store, version)
            check_integrity(store.version_folder(version), release)
        except (ReleaseError, OSError) as error:
            raise ReleaseError(
                f"{error}; {version_tag(advisor, current)} stays active. Restore it: mondrian pull "
                f"{advisor} --rev {version}"
            ) from None
        store.activate(version, record, "rollback", entry.before[1:])
    return RollbackResult(current, version)
