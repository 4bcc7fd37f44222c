"""Scan photos for link: sha256, size, fingerprint, or the reason why a photo cannot be used.

The cache is keyed by content: a photo that was scanned under any name is not decoded again, and an
unchanged file is not even read.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mondrian.core.errors import PhotoError
from mondrian.core.files import file_hash
from mondrian.core.parallel import map_in_processes, split_into_batches
from mondrian.core.photo_decoder import read_preview
from mondrian.core.terminal import progress_bar
from mondrian.critique.rejection import RejectionReason
from mondrian.data.photos.fingerprint import FINGERPRINT, make_fingerprint
from mondrian.data.photos.photo_cache import open_cache

CACHE_VERSION = 5  # of the cached data; a cache of another version is cleared
CACHE_FILE = "photos.sqlite"
_BATCH_SIZE = 16  # photos
_MAX_SERIAL = 16  # batches that are scanned without starting processes
_REASONS = frozenset(RejectionReason)
_SCHEMA = """
    DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS photos;
    CREATE TABLE files (
        path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, sha256 TEXT);
    CREATE TABLE photos (
        sha256 TEXT PRIMARY KEY, width INTEGER, height INTEGER, fingerprint BLOB, notes TEXT,
        captured TEXT, reason TEXT, detail TEXT);
"""
_INFO_COLUMNS = "sha256, width, height, fingerprint, notes, captured, reason, detail"


@dataclass(frozen=True)
class PhotoInfo:
    """The facts about a photo's content; `reason` is the reason code if it cannot be used."""

    sha256: str
    width: int = 0
    height: int = 0
    fingerprint: bytes = b""
    notes: str = ""  # what was assumed to decode it, one per line
    captured: str = ""  # when, as `read_capture_time` returns it
    reason: str = ""
    detail: str = ""


_FileStamp = tuple[str, int, int, int]  # path, size, mtime, ctime: they change with the content
ScannedPhoto = tuple[Path, PhotoInfo]
_Scan = tuple[Path, _FileStamp | None, PhotoInfo]


def scan_photos(paths: Sequence[Path], cache_dir: Path) -> Iterator[ScannedPhoto]:
    """Yield each photo with its info, in any order; DataError if the cache folder is unusable."""
    with open_cache(cache_dir / CACHE_FILE, CACHE_VERSION, _SCHEMA) as connection:
        yield from _scan(paths, connection)


def _scan(paths: Sequence[Path], cache: sqlite3.Connection) -> Iterator[ScannedPhoto]:
    unread: list[Path] = []
    for path in paths:
        info = _load_cached_info(cache, path)
        if info is None:
            unread.append(path)
        else:
            yield path, info
    if not unread:
        return
    batches = split_into_batches(unread, _BATCH_SIZE)
    rows = cache.execute(f"SELECT {_INFO_COLUMNS} FROM photos")
    known_hashes = frozenset(row[0] for row in rows if _parse_cached_row(row))
    with progress_bar(total=len(unread), desc="photos", unit="photo") as bar:
        for scans in map_in_processes(_scan_batch, known_hashes, batches, _MAX_SERIAL):
            yield from _save_to_cache(cache, scans)
            bar.update(len(scans))


def read_photo_info(path: Path, sha256: str) -> PhotoInfo:
    try:
        preview = read_preview(path)
    except PhotoError as error:
        return PhotoInfo(sha256, reason=str(error.reason), detail=str(error))
    fingerprint = make_fingerprint(preview.image)
    return PhotoInfo(sha256, *preview.size, fingerprint, "\n".join(preview.notes), preview.captured)


def _scan_batch(known_hashes: frozenset[str], paths: list[Path]) -> list[_Scan]:
    """Scan in one process; a photo with known content is only hashed."""
    scans: list[_Scan] = []
    for path in paths:
        try:
            stamp = _make_stamp(path)  # before reading, so that a later change is noticed next time
            sha256 = file_hash(path)
        except OSError as error:
            scans.append((path, None, PhotoInfo("", reason="image_unreadable", detail=str(error))))
            continue
        is_known = sha256 in known_hashes
        info = PhotoInfo(sha256) if is_known else read_photo_info(path, sha256)
        scans.append((path, stamp, info))
    return scans


def _make_stamp(path: Path) -> _FileStamp:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _load_cached_info(cache: sqlite3.Connection, path: Path) -> PhotoInfo | None:
    try:
        stamp = _make_stamp(path)
    except OSError:
        return None
    row = cache.execute(
        f"SELECT {_INFO_COLUMNS} FROM files JOIN photos USING (sha256) "
        "WHERE path = ? AND size = ? AND mtime = ? AND ctime = ?",
        stamp,
    ).fetchone()
    return _parse_cached_row(row)


def _parse_cached_row(row: tuple[Any, ...] | None) -> PhotoInfo | None:
    """Return the info of a row, or None if the row is not one that this module wrote."""
    if row is None:
        return None
    info = PhotoInfo(*row)
    size = len(info.fingerprint) if isinstance(info.fingerprint, bytes) else 0
    return info if size == FINGERPRINT.itemsize or info.reason in _REASONS else None


def _save_to_cache(cache: sqlite3.Connection, scans: Iterable[_Scan]) -> list[ScannedPhoto]:
    cache.execute("BEGIN IMMEDIATE")
    scanned = []
    for path, stamp, info in scans:
        if stamp is not None:
            # An unreadable photo is not cached: the error may be temporary.
            if info.fingerprint or info.reason not in ("", RejectionReason.IMAGE_UNREADABLE):
                values = astuple(info)
                marks = ", ".join("?" * len(values))
                cache.execute(f"INSERT OR REPLACE INTO photos VALUES ({marks})", values)
            stamped = (*stamp, info.sha256)
            cache.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", stamped)
            if not info.fingerprint and not info.reason:  # its content is known
                query = f"SELECT {_INFO_COLUMNS} FROM photos WHERE sha256 = ?"
                row = cache.execute(query, (info.sha256,)).fetchone()
                info = _parse_cached_row(row) or read_photo_info(path, info.sha256)
        scanned.append((path, info))
    cache.execute("COMMIT")
    return scanned
