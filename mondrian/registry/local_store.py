"""The versions of one advisor on a serving machine, and which one is active.

models/serving/<advisor>/
  current -> versions/<advisor>@v2.0.0     the version the service loads; replaced by one rename
  control -> versions/<advisor>@v1.0.0     the control of a rollout
  versions/<advisor>@v2.0.0/               an adapter and its release.json
  history.jsonl                            activations, one line each, written before the change

A line in the history without its change (the process was killed in between) does no harm: `current`
names the active version, and each line includes the versions before it.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from filelock import FileLock, Timeout
from pydantic import ValidationError

from mondrian.core.errors import ReleaseError, join_first
from mondrian.core.files import append_line, file_hash, fsync_path, is_junk
from mondrian.registry import release_record
from mondrian.registry.release_record import RELEASE_FILE, Release, StrictRecord
from mondrian.registry.version import Version, parse_version, version_tag

HISTORY_FILE = "history.jsonl"
_STAGING_PREFIX = ".left-"  # such folders are removed by the next pull
CONTROL_LINK = "control"
RETAINED_VERSIONS = 3  # on disk: the active one and those before it
Versions = tuple[str, ...]


class HistoryEntry(StrictRecord):
    activated_at: str
    version: str
    record: str  # sha256 of its release.json
    action: str  # pull or rollback
    before: Versions  # active before it, newest first: the order of rollbacks

    def matches_record(self, record: bytes) -> bool:
        return sha256(record).hexdigest() == self.record


def read_history(path: Path) -> list[HistoryEntry]:
    """Return all entries, oldest first; incomplete lines are skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(HistoryEntry.model_validate_json(line))
        except ValidationError:
            continue
    return entries


def append_history(path: Path, entry: HistoryEntry) -> None:
    append_line(path, json.dumps(entry.model_dump()))


def select_retained(current: str, entries: list[HistoryEntry]) -> set[str]:
    """Return the versions to keep on disk: current, those before it, and the latest active ones."""
    before = next((entry.before for entry in reversed(entries) if entry.version == current), ())
    recent = list(dict.fromkeys(entry.version for entry in reversed(entries)))
    return {current, *before, *recent[:RETAINED_VERSIONS]}


@dataclass(frozen=True)
class LocalStore:
    """The store of an advisor; `folder` is models/serving/<advisor>."""

    folder: Path
    advisor: str

    @property
    def current_link(self) -> Path:
        return self.folder / "current"

    @property
    def history_path(self) -> Path:
        return self.folder / HISTORY_FILE

    def version_folder(self, version: Version) -> Path:
        return self.folder / "versions" / version_tag(self.advisor, version)

    def version_from_name(self, name: str) -> Version | None:
        """Return the version of a folder name, or None if it is not one of this advisor's."""
        advisor, _, version = name.rpartition("@")
        try:
            return parse_version(version) if advisor == self.advisor else None
        except ReleaseError:
            return None

    def active_version(self) -> Version | None:
        """Return the version that `current_link` names, complete or not."""
        try:
            return self.version_from_name(Path(os.readlink(self.current_link)).name)
        except OSError:
            return None

    def entries(self) -> list[HistoryEntry]:
        return read_history(self.history_path)

    def latest_entry(self, version: Version | None) -> HistoryEntry | None:
        return next((e for e in reversed(self.entries()) if e.version == str(version)), None)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock this advisor's versions and remove what killed pulls left.

        The lock ends with its process. Raises ReleaseError if a pull or rollback is running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise ReleaseError(
                f"another pull or rollback of {self.advisor} runs in {self.folder}; wait for it"
            ) from None
        with lock:
            for path in self.folder.glob(f"{_STAGING_PREFIX}*"):
                shutil.rmtree(path, ignore_errors=True)
            yield

    @contextmanager
    def create_staging_folder(self) -> Iterator[Path]:
        """Create a temporary folder on the same file system as the versions."""
        path = self.folder / f"{_STAGING_PREFIX}{token_hex(4)}"
        try:
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def install(self, folder: Path, version: Version) -> None:
        """Move a verified folder to its version's place, or its files if that exists already."""
        target = self.version_folder(version)
        for file in folder.iterdir():
            fsync_path(file)
        fsync_path(folder)
        target.parent.mkdir(exist_ok=True)
        if target.exists():  # damaged, and perhaps active: replace file by file
            _replace_files(folder, target)
        else:
            folder.replace(target)
        fsync_path(target.parent)
        fsync_path(self.folder)

    def activate(self, version: Version, record: bytes, action: str, before: Versions) -> None:
        """Make a version the current one: write the history first, then rename the link."""
        entry = HistoryEntry(
            activated_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            version=str(version),
            record=sha256(record).hexdigest(),
            action=action,
            before=before[: RETAINED_VERSIONS - 1],
        )
        append_history(self.history_path, entry)
        with self.create_staging_folder() as staging:
            link = staging / "current"
            link.symlink_to(self.version_folder(version).relative_to(self.folder))
            link.replace(self.current_link)
        fsync_path(self.folder)

    def prune(self, current: Version) -> None:
        """Remove versions that no rollback needs and that are not the control of a rollout."""
        retained = select_retained(str(current), self.entries())
        if control := self.version_from_name((self.folder / CONTROL_LINK).resolve().name):
            retained.add(str(control))
        with self.create_staging_folder() as staging:
            for folder in self.version_folder(current).parent.iterdir():
                version = self.version_from_name(folder.name)
                if version and str(version) not in retained:
                    folder.replace(staging / folder.name)


def _replace_files(source: Path, target: Path) -> None:
    """Move the files of `source` into `target` and remove everything else there."""
    names = {file.name for file in source.iterdir()}
    for old in target.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old.name not in names:
            old.unlink()
    for name in names:
        (source / name).replace(target / name)
    fsync_path(target)


def link_control_version(folder: Path) -> None:
    """Link a rollout's control version in its store, if its folder is in one."""
    store = folder.parent.parent
    if folder.parent.name != "versions" or (store / CONTROL_LINK).resolve() == folder.resolve():
        return
    link = store / f".{CONTROL_LINK}"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(folder.parent.name) / folder.name)
    link.replace(store / CONTROL_LINK)


@dataclass(frozen=True)
class Activation:
    activated_at: float  # seconds since 1970
    taken_back: str  # version that a rollback replaced; empty for a pull


def read_activation(folder: Path) -> Activation | None:
    """Return the last activation in a version folder's store, None if it was of another version."""
    entries = read_history(folder.parent.parent / HISTORY_FILE)
    if not entries or not folder.name.endswith(f"@{entries[-1].version}"):
        return None
    last = entries[-1]
    taken_back = entries[-2].version if last.action == "rollback" and len(entries) > 1 else ""
    return Activation(datetime.fromisoformat(last.activated_at).timestamp(), taken_back)


def check_integrity(folder: Path, release: Release) -> None:
    """Raise ReleaseError unless a folder has exactly the files of a release, and perhaps junk."""
    names = {RELEASE_FILE, *(file.name for file in release.installed_files)}
    extra = sorted({path.name for path in folder.iterdir() if not is_junk(path.name)} - names)
    problems = [f"{name} is not part of it" for name in extra]
    for released in release.installed_files:
        name, file = released.name, folder / released.name
        try:
            file_stat = file.lstat()
        except FileNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if not stat.S_ISREG(file_stat.st_mode):
            problems.append(f"{name} is not a regular file")
        elif file_stat.st_size != released.size:
            problems.append(f"{name} has {file_stat.st_size} bytes, {released.size} were released")
        elif (digest := file_hash(file)) != released.sha256:
            problems.append(f"{name} has sha256 {digest[:8]}…, {released.sha256[:8]}… was released")
    if problems:
        raise ReleaseError(f"{release.tag} is damaged: {join_first(problems, 3, '; ')}")


def read_local_record(store: LocalStore, version: Version) -> tuple[bytes, Release]:
    """Return release.json as bytes and parsed, or raise ReleaseError if it is not as pulled."""
    file = store.version_folder(version) / RELEASE_FILE
    entry = store.latest_entry(version)
    try:
        content = file.read_bytes()
    except OSError:
        raise ReleaseError(f"{file} is missing; pull it again") from None
    if entry is None or not entry.matches_record(content):
        raise ReleaseError(f"{file} is not the one that was pulled; pull it again")
    return content, release_record.read_record(content, store.advisor, version, str(file))
