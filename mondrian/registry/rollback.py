"""The version that served before this one serves again, if it is still whole."""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.core.errors import ReleaseError
from mondrian.registry import history
from mondrian.registry.local_store import Shelf, check_integrity, read_local_record
from mondrian.registry.version import Version, check_name, parse_version, tag_of


@dataclass(frozen=True)
class RollbackResult:
    """left  the version that served until now"""

    replaced_version: Version
    version: Version


def roll_back(shelf: Shelf) -> RollbackResult:
    """Put the version before to use; a second time, the one before that.

    Raises ReleaseError where there is none or it is damaged; then nothing is changed.
    """
    check_name(shelf.advisor)
    if shelf.serving_version() is None:
        raise ReleaseError(f"nothing serves in {shelf.folder}; mondrian pull {shelf.advisor} first")
    with shelf.lock():
        current = shelf.serving_version()
        assert current is not None
        entry = history.latest_entry(str(current), shelf.entries())
        if entry is None or not entry.before:
            raise ReleaseError(
                f"no version served before {tag_of(shelf.advisor, current)} in {shelf.folder}; "
                f"pull one: mondrian pull {shelf.advisor} --rev V"
            )
        version = parse_version(entry.before[0])
        try:
            record, release = read_local_record(shelf, version)
            check_integrity(shelf.version_dir(version), release)
        except (ReleaseError, OSError) as error:
            raise ReleaseError(
                f"{error}; {tag_of(shelf.advisor, current)} serves on. Bring it back: "
                f"mondrian pull {shelf.advisor} --rev {version}"
            ) from None
        shelf.activate(version, record, "rollback", entry.before[1:])
    return RollbackResult(current, version)
