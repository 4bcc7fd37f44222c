"""history.jsonl: what served on this machine, one line a change, written before the change.

A line whose change never came (the process was killed between) does no harm: what serves is what
`current` names, and each line brings along what served before it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from mondrian.core.files import fsync_path

RETAINED_VERSIONS = 3  # versions that stay on the disk: the one that serves and those before it


@dataclass(frozen=True)
class HistoryEntry:
    """A version that was put to use.

    record  sha256 of its release.json
    how     pull or rollback
    before  versions that served before it, the last one first: what rolling back goes through
    """

    at: str
    version: str
    record: str
    how: str
    before: tuple[str, ...]

    def matches_record(self, record: bytes) -> bool:
        """Whether a release.json is the one that was put to use."""
        return sha256(record).hexdigest() == self.record


def read_history(path: Path) -> list[HistoryEntry]:
    """All entries, the oldest first; a torn line is passed over."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in lines if (entry := _entry(line))]


def append(path: Path, entry: HistoryEntry) -> None:
    """Add an entry and bring it to the disk."""
    new = not path.exists()
    with path.open("ab+") as file:
        if file.tell() and path.read_bytes()[-1:] != b"\n":
            file.write(b"\n")  # after a torn line
        file.write(json.dumps(asdict(entry)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        fsync_path(path.parent)


def latest_entry(version: str, entries: list[HistoryEntry]) -> HistoryEntry | None:
    """The latest entry of a version."""
    return next((entry for entry in reversed(entries) if entry.version == version), None)


def select_retained(current: str, entries: list[HistoryEntry]) -> set[str]:
    """Versions that stay on the disk: current, those before it, and the last ones that served."""
    entry = latest_entry(current, entries)
    stay = {current, *(entry.before if entry else ())}
    recent = list(dict.fromkeys(entry.version for entry in reversed(entries)))
    return stay | set(recent[:RETAINED_VERSIONS])


def _entry(line: bytes) -> HistoryEntry | None:
    try:
        data = json.loads(line)
        entry = HistoryEntry(**data | {"before": tuple(data["before"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (entry.at, entry.version, entry.record, entry.how, *entry.before)
    return entry if all(isinstance(text, str) for text in texts) else None
