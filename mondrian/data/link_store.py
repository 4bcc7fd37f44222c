"""Scratch database of the link stage: one row per finished job with its outcome.

It is on disk rather than in memory, and deleted afterwards. A job has a reason code (it is
rejected), or a record and perhaps flags.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mondrian.core.errors import DataError
from mondrian.critique.rejection import RejectionReason
from mondrian.data.photo_scan import PhotoInfo

_TABLES = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, timestamp REAL, id TEXT, reason TEXT, detail TEXT,
        path TEXT, match_kind TEXT, words TEXT, flags TEXT, review TEXT, record TEXT);
    CREATE TABLE photos (
        path TEXT PRIMARY KEY, sha256 TEXT, width INTEGER, height INTEGER, thumbnail BLOB,
        reason TEXT, detail TEXT, picture TEXT);
"""
_DESCRIPTION = "json_extract(record, '$.critique.image_description')"
_PAIRS = "jobs JOIN photos USING (path) WHERE jobs.reason = ''"  # what is not rejected
_LEFT_OUT = "record != '' AND jobs.reason != '' AND photos.reason = ''"


class ExaminedJob(NamedTuple):
    """The outcome of one job on its own: a reason and its detail, or a record without its photo."""

    timestamp: float
    id: str
    reason: str = ""
    detail: str = ""
    path: str = ""  # of the photo
    match_kind: str = ""  # see PhotoIndex.find
    words: str = ""  # words_hash of the critique
    flags: str = ""  # separated by spaces
    review: str = ""  # accepted or corrected by a person
    record: str = ""  # JSON


class LinkedPair(NamedTuple):
    """The facts about a record that the dataset filters compare."""

    number: int
    picture: str  # the group of its photo
    words: str
    flags: tuple[str, ...]
    is_reviewed: bool


@contextmanager
def open_link_store() -> Iterator[LinkStore]:
    """Create an empty store, deleted when the context ends."""
    with TemporaryDirectory(prefix="mondrian-") as folder:
        path = Path(folder) / "link.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(_TABLES)
            yield LinkStore(connection, folder)


class LinkStore:
    """Filled with jobs, then with photos; read in order of time."""

    def __init__(self, connection: sqlite3.Connection, folder: str) -> None:
        self._connection, self._folder = connection, folder

    def add_jobs(self, jobs: Iterable[ExaminedJob]) -> None:
        columns, marks = ", ".join(ExaminedJob._fields), ", ".join("?" * len(ExaminedJob._fields))
        self._execute_many(f"INSERT INTO jobs ({columns}) VALUES ({marks})", jobs)

    def photo_paths(self) -> list[Path]:
        """Return the photos of all records, each once."""
        query = "SELECT DISTINCT path FROM jobs WHERE reason = '' ORDER BY path"
        return [Path(path) for (path,) in self._connection.execute(query)]

    def add_photos(self, photos: Iterable[tuple[Path, PhotoInfo]]) -> None:
        """Add photos, and reject the jobs of those that cannot be used."""
        rows = (
            (str(path), i.sha256, i.width, i.height, i.thumbnail, i.reason, i.detail)
            for path, i in photos
        )
        self._execute_many("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, '')", rows)
        self._connection.execute(
            "UPDATE jobs SET reason = photos.reason, detail = jobs.path || ': ' || photos.detail "
            "FROM photos WHERE jobs.path = photos.path AND photos.reason != '' AND jobs.reason = ''"
        )

    def thumbnails(self) -> dict[str, bytes]:
        """Return the thumbnail of each usable photo by sha256."""
        query = "SELECT DISTINCT sha256, thumbnail FROM photos WHERE reason = '' ORDER BY sha256"
        return dict(self._connection.execute(query))

    def set_pictures(self, picture_by_sha256: dict[str, str]) -> None:
        """Set the group of near-duplicates of each photo."""
        self._execute_many(
            "UPDATE photos SET picture = ? WHERE sha256 = ?",
            ((picture, sha256) for sha256, picture in picture_by_sha256.items()),
        )
        self._connection.executescript(
            "CREATE INDEX by_time ON jobs (timestamp, id); CREATE INDEX by_path ON jobs (path);"
        )

    def find_shared_texts(self) -> set[str]:
        """Return texts that belong to several pictures."""
        query = f"SELECT words FROM {_PAIRS} GROUP BY words HAVING COUNT(DISTINCT picture) > 1"
        return {words for (words,) in self._connection.execute(query)}

    def find_pictures_with_many_texts(self, max_texts: int) -> list[str]:
        """Return pictures with more than `max_texts` different texts that nobody has reviewed."""
        query = (
            f"SELECT picture FROM {_PAIRS} AND review = '' "
            "GROUP BY picture HAVING COUNT(DISTINCT words) > ?"
        )
        return [picture for (picture,) in self._connection.execute(query, [max_texts])]

    def descriptions(self, max_rows: int) -> list[tuple[str, str]]:
        """Return (picture, description) pairs."""
        query = f"SELECT DISTINCT picture, {_DESCRIPTION} FROM {_PAIRS} LIMIT ?"
        return list(self._connection.execute(query, [max_rows]))

    def descriptions_of(self, picture: str, max_rows: int) -> list[str]:
        """Return the descriptions of one picture that nobody has reviewed."""
        query = (
            f"SELECT DISTINCT {_DESCRIPTION} FROM {_PAIRS} AND review = '' AND picture = ? LIMIT ?"
        )
        return [text for (text,) in self._connection.execute(query, [picture, max_rows])]

    def pairs(self) -> Iterator[LinkedPair]:
        """Yield every pair, in any order."""
        query = f"SELECT number, picture, words, flags, review != '' FROM {_PAIRS}"
        for number, picture, words, flags, is_reviewed in self._connection.execute(query):
            yield LinkedPair(number, picture, words, tuple(flags.split()), bool(is_reviewed))

    def apply_verdicts(self, verdicts: Iterable[tuple[str, str, str, int]]) -> None:
        """Set reason, detail and flags of records by number; then reject duplicates.

        Of equal texts, regardless of scores, the corrected one stays, else the accepted one, else
        the first.
        """
        self._execute_many(
            "UPDATE jobs SET reason = ?, detail = ?, flags = ? WHERE number = ?", verdicts
        )
        self._connection.execute(
            f"UPDATE jobs SET reason = '{RejectionReason.DUPLICATE}', detail = "
            "'same text and photo as job ' || copies.first FROM (SELECT number, "
            f"FIRST_VALUE(id) OVER same AS first, ROW_NUMBER() OVER same AS nth FROM {_PAIRS} "
            "WINDOW same AS (PARTITION BY picture, words ORDER BY review = 'corrected' DESC, "
            "review = 'accepted' DESC, timestamp, id, number)) AS copies "
            "WHERE copies.number = jobs.number AND copies.nth > 1"
        )

    def count_pairs(self) -> tuple[int, int]:
        """Return the number of pairs and of their pictures."""
        query = f"SELECT COUNT(*), COUNT(DISTINCT picture) FROM {_PAIRS}"
        n_pairs, n_pictures = self._connection.execute(query).fetchone()
        return n_pairs, n_pictures

    def count_reasons(self) -> dict[str, int]:
        """Return the jobs per reason, the most frequent first."""
        query = "SELECT reason, COUNT(*) FROM jobs WHERE reason != '' GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._connection.execute(query))

    def count_origins(self) -> dict[str, dict[str, int]]:
        """Return how many pairs have each form, repair, kind of filename match and review."""
        query = f"SELECT json_extract(record, '$.repairs') FROM {_PAIRS}"
        repairs = Counter(
            name
            for (repairs_json,) in self._connection.execute(query)
            for name in {repair.split(" ")[0] for repair in json.loads(repairs_json)}
        )
        return {
            "forms": self._count_by("json_extract(record, '$.form')"),
            "repairs": dict(sorted(repairs.items())),
            "match_kinds": self._count_by("match_kind"),
            "reviewed": self._count_by("review", "AND review != ''"),
        }

    def _count_by(self, expression: str, condition: str = "") -> dict[str, int]:
        query = f"SELECT {expression}, COUNT(*) FROM {_PAIRS} {condition} GROUP BY 1 ORDER BY 1"
        return dict(self._connection.execute(query))

    def count_left_out_by_flags(self) -> Counter[tuple[str, ...]]:
        """Return the number of records that only flags leave out, by all their flags."""
        query = f"SELECT flags FROM jobs JOIN photos USING (path) WHERE {_LEFT_OUT} AND flags != ''"
        return Counter(tuple(flags.split()) for (flags,) in self._connection.execute(query))

    def records(self, left_out: bool) -> Iterator[str]:
        """Yield records as JSON in order of time: those that are left out, or the others."""
        condition = _LEFT_OUT if left_out else "jobs.reason = ''"
        photo_keys = ("path", "sha256", "width", "height", "group", "match_kind")
        query = (
            "SELECT record, jobs.reason, flags, path, sha256, width, height, picture, match_kind "
            f"FROM jobs JOIN photos USING (path) WHERE {condition} ORDER BY timestamp, id"
        )
        for record, reason, flags, *photo in self._connection.execute(query):
            details: dict[str, Any] = {
                "photo": dict(zip(photo_keys, photo, strict=True)),
                "suspicions": flags.split(),
                "reason": reason or None,
            }
            yield json.dumps(json.loads(record) | details, ensure_ascii=False)

    def iter_rejected_json(self) -> Iterator[str]:
        """Yield rejected jobs as JSON in order of time."""
        query = "SELECT id, reason, detail FROM jobs WHERE reason != '' ORDER BY timestamp, id"
        for job_id, reason, detail in self._connection.execute(query):
            rejected = {"job_id": job_id, "reason": reason, "detail": detail}
            yield json.dumps(rejected, ensure_ascii=False)

    def _execute_many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(query, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(f"{self._folder}: {error}; make room there, or set TMPDIR") from None
