"""The version that served before this one serves again, if it is still whole."""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.core.errors import ReleaseError
from mondrian.registry import history
from mondrian.registry.local_store import Shelf, check_whole, read_kept
from mondrian.registry.version import Version, check_name, read_version, tag_of


@dataclass(frozen=True)
class RolledBack:
    """left  the version that served until now"""

    left: Version
    version: Version


def roll_back(shelf: Shelf) -> RolledBack:
    """Put the version before to use; a second time, the one before that.

    Raises ReleaseError where there is none or it is damaged; then nothing is changed.
    """
    check_name(shelf.advisor)
    if shelf.serving() is None:
        raise ReleaseError(f"nothing serves in {shelf.folder}; mondrian pull {shelf.advisor} first")
    with shelf.alone():
        current = shelf.serving()
        assert current is not None
        entry = history.last_of(str(current), shelf.entries())
        if entry is None or not entry.before:
            raise ReleaseError(
                f"no version served before {tag_of(shelf.advisor, current)} in {shelf.folder}; "
                f"pull one: mondrian pull {shelf.advisor} --rev V"
            )
        version = read_version(entry.before[0])
        try:
            record, release = read_kept(shelf, version)
            check_whole(shelf.place(version), release)
        except (ReleaseError, OSError) as error:
            raise ReleaseError(
                f"{error}; {tag_of(shelf.advisor, current)} serves on. Bring it back: "
                f"mondrian pull {shelf.advisor} --rev {version}"
            ) from None
        shelf.switch(version, record, "rollback", entry.before[1:])
    return RolledBack(current, version)
