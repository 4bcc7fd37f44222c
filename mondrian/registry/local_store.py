"""One advisor's versions on a serving machine, and the one that serves.

models/serving/<advisor>/
  current -> versions/<advisor>@v2.0.0     what the service loads; replaced by one rename
  control -> versions/<advisor>@v1.0.0     what a service answers with beside it, in a roll-out
  versions/<advisor>@v2.0.0/               an adapter, and its release.json
  history.jsonl                            what served, and when
"""

from __future__ import annotations

import fcntl
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

from mondrian.core.errors import ReleaseError
from mondrian.core.files import file_hash, fsync_path
from mondrian.registry import history as journal
from mondrian.registry.history import RETAINED_VERSIONS, HistoryEntry
from mondrian.registry.release_record import RELEASE_FILENAME, Release, read_record
from mondrian.registry.version import Version, parse_version, tag_of

_STAGING_PREFIX = ".left-"  # what begins so is removed by the next pull
CONTROL_LINK = "control"


@dataclass(frozen=True)
class Shelf:
    """folder  models/serving/<advisor>"""

    folder: Path
    advisor: str

    @property
    def current_link(self) -> Path:
        """The link that the service follows."""
        return self.folder / "current"

    @property
    def history_path(self) -> Path:
        """The journal."""
        return self.folder / "history.jsonl"

    def version_dir(self, version: Version) -> Path:
        """The folder of a version."""
        return self.folder / "versions" / tag_of(self.advisor, version)

    def serving_version(self) -> Version | None:
        """The version that `current_link` names, whole or not."""
        try:
            name = Path(os.readlink(self.current_link)).name
        except OSError:
            return None
        return self.version_from_name(name)

    def entries(self) -> list[HistoryEntry]:
        """What the journal says."""
        return journal.read_history(self.history_path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes this advisor's versions; a lock ends with its process.

        Raises ReleaseError where another pull or roll-back is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ReleaseError(
                    f"another pull or rollback of {self.advisor} is at work in "
                    f"{self.folder}; wait for it"
                ) from None
            self._clear()
            yield

    @contextmanager
    def staging_dir(self) -> Iterator[Path]:
        """A folder beside the versions that is gone afterwards."""
        path = self.folder / f"{_STAGING_PREFIX}{token_hex(4)}"
        try:
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def install(self, folder: Path, version: Version) -> None:
        """Let a verified folder, or the files of it, take the place of a version."""
        place = self.version_dir(version)
        for file in folder.iterdir():
            fsync_path(file)
        fsync_path(folder)
        place.parent.mkdir(exist_ok=True)
        if place.exists():  # damaged, and perhaps serving: mended file by file
            self._replace_files(folder, place)
        else:
            folder.replace(place)
        fsync_path(place.parent)
        fsync_path(self.folder)

    def activate(
        self, version: Version, record: bytes, action: str, before: tuple[str, ...]
    ) -> None:
        """Put a version to use: on record first, then by one rename."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        digest = sha256(record).hexdigest()
        journal.append(
            self.history_path,
            HistoryEntry(now, str(version), digest, action, before[: RETAINED_VERSIONS - 1]),
        )
        with self.staging_dir() as folder:
            link = folder / "current"
            link.symlink_to(self.version_dir(version).relative_to(self.folder))
            link.replace(self.current_link)
        fsync_path(self.folder)

    def prune(self, current: Version) -> None:
        """Remove versions that nobody will roll back to, and that no service answers with."""
        stay = journal.select_retained(str(current), self.entries())
        control = self.version_from_name((self.folder / CONTROL_LINK).resolve().name)
        stay = {*stay, *([str(control)] if control else [])}
        with self.staging_dir() as folder:
            for place in self.version_dir(current).parent.iterdir():
                version = self.version_from_name(place.name)
                if version and str(version) not in stay:
                    place.replace(folder / place.name)

    def version_from_name(self, name: str) -> Version | None:
        """The version that a folder is of, by its name."""
        advisor, _, version = name.rpartition("@")
        try:
            return parse_version(version) if advisor == self.advisor else None
        except ReleaseError:
            return None

    def _replace_files(self, folder: Path, place: Path) -> None:
        names = set()
        for file in folder.iterdir():
            names.add(file.name)
            if (place / file.name).is_dir() and not (place / file.name).is_symlink():
                shutil.rmtree(place / file.name)
            file.replace(place / file.name)
        for other in [path for path in place.iterdir() if path.name not in names]:
            shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()
        fsync_path(place)

    def _clear(self) -> None:
        """What killed pulls left."""
        for path in self.folder.glob(f"{_STAGING_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)


def link_control_version(folder: Path) -> None:
    """Note on its shelf that a service answers with a version; nothing where it is on none.

    folder  of the version
    """
    shelf = folder.parent.parent
    if folder.parent.name != "versions" or (shelf / CONTROL_LINK).resolve() == folder.resolve():
        return
    beside = shelf / f".{CONTROL_LINK}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(Path(folder.parent.name) / folder.name)
    beside.replace(shelf / CONTROL_LINK)


def check_integrity(folder: Path, release: Release) -> None:
    """Raise ReleaseError unless a folder holds the files of a release, and nothing else."""
    faults = [
        f"{path.name} is no part of it"
        for path in sorted(folder.iterdir())
        if path.name not in {RELEASE_FILENAME, *(piece.name for piece in release.files)}
    ]
    for piece in release.files:
        file = folder / piece.name
        try:
            file_stat = file.lstat()
        except FileNotFoundError:
            faults.append(f"{piece.name} is missing")
            continue
        if not stat.S_ISREG(file_stat.st_mode):
            faults.append(f"{piece.name} is no plain file")
        elif file_stat.st_size != piece.size:
            faults.append(f"{piece.name} has {file_stat.st_size} bytes, {piece.size} were released")
        elif (digest := file_hash(file)) != piece.sha256:
            faults.append(
                f"{piece.name} has sha256 {digest[:8]}…, {piece.sha256[:8]}… was released"
            )
    if faults:
        more = f" (+{len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ReleaseError(f"{release.tag} is damaged: {'; '.join(faults[:3])}{more}")


def read_local_record(shelf: Shelf, version: Version) -> tuple[bytes, Release]:
    """The release.json of a version that served here, held to the journal; as bytes and read.

    Raises ReleaseError where it is missing or was changed.
    """
    file = shelf.version_dir(version) / RELEASE_FILENAME
    entry = journal.latest_entry(str(version), shelf.entries())
    try:
        content = file.read_bytes()
    except OSError:
        raise ReleaseError(f"{file} is missing; pull it again") from None
    if entry is None or not entry.matches_record(content):
        raise ReleaseError(f"{file} is not the one that was pulled; pull it again")
    return content, read_record(content, shelf.advisor, version, str(file))
