"""What link has to know of each photograph: hash of the bytes, size, thumbnail, or why not.

Looked at in parallel processes, and remembered in a cache that is keyed by content: a photograph
that was seen before under any name is not decoded again, and one whose file did not change is not
even read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import file_hash
from mondrian.core.images import glance
from mondrian.core.parallel import batches, spread
from mondrian.critique.rejection import Reason
from mondrian.data.near_duplicates import SIDE, thumbnail

VERSION = 1  # of what is kept for a photograph; another one makes the cache anew
CACHE = "photos.sqlite"
_BATCH, _ALONE = 16, 16
_REASONS = frozenset(Reason)
_LOOK = "sha256, width, height, thumbnail, reason, detail"
_TABLES = """
    CREATE TABLE IF NOT EXISTS files (
        path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, sha256 TEXT);
    CREATE TABLE IF NOT EXISTS looks (
        sha256 TEXT PRIMARY KEY, width INTEGER, height INTEGER, thumbnail BLOB,
        reason TEXT, detail TEXT);
"""


@dataclass(frozen=True)
class Look:
    """A photograph as it lies in a file; `reason` says why it cannot be used."""

    sha256: str
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class _Stamp:
    """What changes with a file's content, as far as the file system tells."""

    path: str
    size: int
    mtime: int
    ctime: int


def look_all(paths: Sequence[Path], cache: Path) -> Iterator[tuple[Path, Look]]:
    """Each photograph and its look, in any order; `cache` is a folder.

    Raises DataError where the cache cannot be used.
    """
    try:
        yield from _look_all(paths, cache / CACHE)
    except sqlite3.Error as error:
        raise DataError(f"{cache / CACHE}: {error}; delete this cache, it is made again") from None


def _look_all(paths: Sequence[Path], cache: Path) -> Iterator[tuple[Path, Look]]:
    with closing(_open(cache)) as known:
        unread: list[Path] = []
        for path in paths:
            found = _remembered(known, path)
            if found is None:
                unread.append(path)
            else:
                yield path, found
        if not unread:
            return
        with tqdm(total=len(unread), desc="photographs", unit="photo", leave=False) as bar:
            for looks in spread(_look_some, _hashes(known), batches(unread, _BATCH), _ALONE):
                yield from _remember(known, looks)
                bar.update(len(looks))


def look(path: Path, sha256: str) -> Look:
    """Decode a photograph and keep what is needed of it."""
    try:
        (width, height), grey = glance(path)
    except PhotoError as error:
        return Look(sha256, reason=str(error.reason), detail=str(error))
    return Look(sha256, width, height, thumbnail(grey))


def _look_some(seen: frozenset[str], paths: list[Path]) -> list[tuple[Path, _Stamp | None, Look]]:
    """The work of one process: no look for a content that is known already."""
    out: list[tuple[Path, _Stamp | None, Look]] = []
    for path in paths:
        try:
            stamp = _stamp(path)  # before it is read: a change meanwhile is seen the next time
            sha256 = file_hash(path)
        except OSError as error:
            out.append((path, None, Look("", reason="image_unreadable", detail=str(error))))
            continue
        out.append((path, stamp, Look(sha256) if sha256 in seen else look(path, sha256)))
    return out


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return _Stamp(str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        connection.executescript(f"""
            DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS looks; {_TABLES}
            PRAGMA user_version = {VERSION};
        """)
    connection.execute("PRAGMA synchronous = OFF")  # it can be made again
    return connection


def _remembered(known: sqlite3.Connection, path: Path) -> Look | None:
    try:
        stamp = _stamp(path)
    except OSError:
        return None
    row = known.execute(
        f"SELECT {_LOOK} FROM files JOIN looks USING (sha256) "
        "WHERE path = ? AND size = ? AND mtime = ? AND ctime = ?",
        astuple(stamp),
    ).fetchone()
    return _checked(row)


def _checked(row: tuple[Any, ...] | None) -> Look | None:
    """A look as this program enters it, or None where somebody else did."""
    whole = row is not None and (
        (isinstance(row[3], bytes) and len(row[3]) == SIDE * SIDE) or row[4] in _REASONS
    )
    return Look(*row) if row is not None and whole else None


def _hashes(known: sqlite3.Connection) -> frozenset[str]:
    rows = known.execute(f"SELECT {_LOOK} FROM looks")
    return frozenset(row[0] for row in rows if _checked(row))


def _remember(
    known: sqlite3.Connection, looks: Iterable[tuple[Path, _Stamp | None, Look]]
) -> Iterator[tuple[Path, Look]]:
    known.execute("BEGIN IMMEDIATE")
    out = []
    for path, stamp, seen in looks:
        if stamp is None:
            out.append((path, seen))
            continue
        if seen.thumbnail or seen.reason not in ("", Reason.IMAGE_UNREADABLE):  # it may be mended
            query = f"INSERT OR REPLACE INTO looks ({_LOOK}) VALUES (?, ?, ?, ?, ?, ?)"
            known.execute(query, astuple(seen))
        stamped = (*astuple(stamp), seen.sha256)
        known.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", stamped)
        if not seen.thumbnail and not seen.reason:  # known by its content
            query = f"SELECT {_LOOK} FROM looks WHERE sha256 = ?"
            kept = _checked(known.execute(query, (seen.sha256,)).fetchone())
            seen = kept or look(path, seen.sha256)
        out.append((path, seen))
    known.execute("COMMIT")
    yield from out
