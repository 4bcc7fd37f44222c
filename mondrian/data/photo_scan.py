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
from mondrian.core.images import read_preview
from mondrian.core.parallel import split_into_batches, spread
from mondrian.critique.rejection import RejectionReason
from mondrian.data.near_duplicates import SIDE, make_thumbnail

CACHE_VERSION = 1  # of what is kept for a photograph; another one makes the cache anew
CACHE_FILE_NAME = "photos.sqlite"
_BATCH, _ALONE = 16, 16
_REASONS = frozenset(RejectionReason)
_INFO_COLUMNS = "sha256, width, height, thumbnail, reason, detail"
_TABLES = """
    CREATE TABLE IF NOT EXISTS files (
        path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, sha256 TEXT);
    CREATE TABLE IF NOT EXISTS looks (
        sha256 TEXT PRIMARY KEY, width INTEGER, height INTEGER, thumbnail BLOB,
        reason TEXT, detail TEXT);
"""


@dataclass(frozen=True)
class PhotoInfo:
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


def scan_photos(paths: Sequence[Path], cache: Path) -> Iterator[tuple[Path, PhotoInfo]]:
    """Each photograph and its look, in any order; `cache` is a folder.

    Raises DataError where the cache cannot be used.
    """
    try:
        yield from _scan_with_cache(paths, cache / CACHE_FILE_NAME)
    except sqlite3.Error as error:
        raise DataError(
            f"{cache / CACHE_FILE_NAME}: {error}; delete this cache, it is made again"
        ) from None


def _scan_with_cache(paths: Sequence[Path], cache: Path) -> Iterator[tuple[Path, PhotoInfo]]:
    with closing(_open(cache)) as known:
        unread: list[Path] = []
        for path in paths:
            info = _load_cached_info(known, path)
            if info is None:
                unread.append(path)
            else:
                yield path, info
        if not unread:
            return
        with tqdm(total=len(unread), desc="photographs", unit="photo", leave=False) as bar:
            for looks in spread(
                _scan_batch, _hashes(known), split_into_batches(unread, _BATCH), _ALONE
            ):
                yield from _save_to_cache(known, looks)
                bar.update(len(looks))


def read_photo_info(path: Path, sha256: str) -> PhotoInfo:
    """Decode a photograph and keep what is needed of it."""
    try:
        (width, height), grey = read_preview(path)
    except PhotoError as error:
        return PhotoInfo(sha256, reason=str(error.reason), detail=str(error))
    return PhotoInfo(sha256, width, height, make_thumbnail(grey))


def _scan_batch(
    known_hashes: frozenset[str], paths: list[Path]
) -> list[tuple[Path, _Stamp | None, PhotoInfo]]:
    """The work of one process: no look for a content that is known already."""
    out: list[tuple[Path, _Stamp | None, PhotoInfo]] = []
    for path in paths:
        try:
            stamp = _stamp(path)  # before it is read: a change meanwhile is seen the next time
            sha256 = file_hash(path)
        except OSError as error:
            out.append((path, None, PhotoInfo("", reason="image_unreadable", detail=str(error))))
            continue
        out.append(
            (
                path,
                stamp,
                PhotoInfo(sha256) if sha256 in known_hashes else read_photo_info(path, sha256),
            )
        )
    return out


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return _Stamp(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    if connection.execute("PRAGMA user_version").fetchone()[0] != CACHE_VERSION:
        connection.executescript(f"""
            DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS looks; {_TABLES}
            PRAGMA user_version = {CACHE_VERSION};
        """)
    connection.execute("PRAGMA synchronous = OFF")  # it can be made again
    return connection


def _load_cached_info(known: sqlite3.Connection, path: Path) -> PhotoInfo | None:
    try:
        stamp = _stamp(path)
    except OSError:
        return None
    row = known.execute(
        f"SELECT {_INFO_COLUMNS} FROM files JOIN looks USING (sha256) "
        "WHERE path = ? AND size = ? AND mtime = ? AND ctime = ?",
        astuple(stamp),
    ).fetchone()
    return _validate_cached_row(row)


def _validate_cached_row(row: tuple[Any, ...] | None) -> PhotoInfo | None:
    """A look as this program enters it, or None where somebody else did."""
    whole = row is not None and (
        (isinstance(row[3], bytes) and len(row[3]) == SIDE * SIDE) or row[4] in _REASONS
    )
    return PhotoInfo(*row) if row is not None and whole else None


def _hashes(known: sqlite3.Connection) -> frozenset[str]:
    rows = known.execute(f"SELECT {_INFO_COLUMNS} FROM looks")
    return frozenset(row[0] for row in rows if _validate_cached_row(row))


def _save_to_cache(
    known: sqlite3.Connection, looks: Iterable[tuple[Path, _Stamp | None, PhotoInfo]]
) -> Iterator[tuple[Path, PhotoInfo]]:
    known.execute("BEGIN IMMEDIATE")
    out = []
    for path, stamp, info in looks:
        if stamp is None:
            out.append((path, info))
            continue
        if info.thumbnail or info.reason not in (
            "",
            RejectionReason.IMAGE_UNREADABLE,
        ):  # it may be mended
            query = f"INSERT OR REPLACE INTO looks ({_INFO_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
            known.execute(query, astuple(info))
        stamped = (*astuple(stamp), info.sha256)
        known.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", stamped)
        if not info.thumbnail and not info.reason:  # known by its content
            query = f"SELECT {_INFO_COLUMNS} FROM looks WHERE sha256 = ?"
            cached_info = _validate_cached_row(known.execute(query, (info.sha256,)).fetchone())
            info = cached_info or read_photo_info(path, info.sha256)
        out.append((path, info))
    known.execute("COMMIT")
    yield from out
