"""The books of link: every finished job and what became of it, on the disk rather than in memory.

A scratch database that is deleted with the ledger. A job has a reason (then it is rejected), or a
record and perhaps flags.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mondrian.core.errors import DataError
from mondrian.critique.rejection import RejectionReason
from mondrian.data.photo_scan import PhotoInfo

_TABLES = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, moment REAL, id TEXT, reason TEXT, detail TEXT,
        path TEXT, found TEXT, words TEXT, flags TEXT, review TEXT, record TEXT);
    CREATE TABLE photos (
        path TEXT PRIMARY KEY, sha256 TEXT, width INTEGER, height INTEGER, thumbnail BLOB,
        reason TEXT, detail TEXT, picture TEXT);
"""
_DESCRIPTION = "json_extract(record, '$.critique.image_description')"
_PAIRS = "jobs JOIN photos USING (path) WHERE jobs.reason = ''"  # what is not rejected


class ExaminedJob(NamedTuple):
    """What one job gave by itself: a reason and its detail, or a record without its photograph."""

    moment: float
    id: str
    reason: str = ""
    detail: str = ""
    path: str = ""
    found: str = ""  # how the photograph was found
    words: str = ""  # suspicion.words_hash of the critique
    flags: str = ""  # suspicions, divided by blanks
    review: str = ""  # accepted or corrected, where a person decided
    record: str = ""  # JSON


class LinkedPair(NamedTuple):
    """A record and the facts that it is judged by beside the others."""

    number: int
    picture: str  # the group of its photograph
    words: str
    flags: tuple[str, ...]
    is_reviewed: bool


class LinkStore:
    """Entered job by job, then photograph by photograph; read in the order of time."""

    def __enter__(self) -> LinkStore:
        with ExitStack() as stack:
            self._folder = stack.enter_context(TemporaryDirectory(prefix="mondrian-"))
            path = Path(self._folder) / "ledger"
            self._books = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            self._books.executescript(_TABLES)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add_jobs(self, jobs: Iterable[ExaminedJob]) -> None:
        """Add jobs."""
        marks = ", ".join("?" * len(ExaminedJob._fields))
        self._execute_many(f"INSERT INTO jobs ({_JOB_COLUMNS}) VALUES ({marks})", jobs)

    def photo_paths(self) -> list[Path]:
        """The photographs that records speak of, each once."""
        query = "SELECT DISTINCT path FROM jobs WHERE reason = '' ORDER BY path"
        return [Path(row[0]) for row in self._books.execute(query)]

    def add_photos(self, looks: Iterable[tuple[Path, PhotoInfo]]) -> None:
        """Add photographs, and reject the jobs of those that cannot be used."""
        rows = (
            (str(p), k.sha256, k.width, k.height, k.thumbnail, k.reason, k.detail) for p, k in looks
        )
        self._execute_many("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, '')", rows)
        self._books.execute(
            "UPDATE jobs SET reason = photos.reason, detail = jobs.path || ': ' || photos.detail "
            "FROM photos WHERE jobs.path = photos.path AND photos.reason != '' AND jobs.reason = ''"
        )

    def thumbnails(self) -> dict[str, bytes]:
        """The thumbnail of each usable content, by sha256."""
        query = "SELECT DISTINCT sha256, thumbnail FROM photos WHERE reason = '' ORDER BY sha256"
        return dict(self._books.execute(query))

    def set_pictures(self, pictures: dict[str, str]) -> None:
        """Say which picture each content (sha256) shows."""
        self._execute_many(
            "UPDATE photos SET picture = ? WHERE sha256 = ?", ((p, s) for s, p in pictures.items())
        )
        self._books.executescript(
            "CREATE INDEX by_time ON jobs (moment, id); CREATE INDEX by_path ON jobs (path);"
        )

    def find_shared_texts(self) -> set[str]:
        """Texts that are told of several pictures."""
        query = f"SELECT words FROM {_PAIRS} GROUP BY words HAVING COUNT(DISTINCT picture) > 1"
        return {row[0] for row in self._books.execute(query)}

    def find_pictures_with_many_texts(self, texts: int) -> list[str]:
        """Pictures of which more than so many different texts are told, without reviewed ones."""
        query = (
            f"SELECT picture FROM {_PAIRS} AND review = '' "
            "GROUP BY picture HAVING COUNT(DISTINCT words) > ?"
        )
        return [row[0] for row in self._books.execute(query, [texts])]

    def descriptions(self, max_rows: int) -> list[tuple[str, str]]:
        """Pictures and what is said to be seen in them."""
        query = f"SELECT DISTINCT picture, {_DESCRIPTION} FROM {_PAIRS} LIMIT ?"
        return list(self._books.execute(query, [max_rows]))

    def descriptions_of(self, picture: str, max_rows: int) -> list[str]:
        """What is said to be seen in one picture."""
        query = (
            f"SELECT DISTINCT {_DESCRIPTION} FROM {_PAIRS} AND review = '' AND picture = ? LIMIT ?"
        )
        return [row[0] for row in self._books.execute(query, [picture, max_rows])]

    def pairs(self) -> Iterator[LinkedPair]:
        """Every record, in any order."""
        for number, picture, words, flags, review in self._books.execute(
            f"SELECT number, picture, words, flags, review FROM {_PAIRS}"
        ):
            yield LinkedPair(number, picture, words, tuple(flags.split()), bool(review))

    def apply_verdicts(self, verdicts: Iterable[tuple[str, str, str, int]]) -> None:
        """Enter reason, detail and flags of records, by number; then reject duplicates.

        Of equal texts, whatever their scores, the corrected one stays, else the accepted one, else
        the first.
        """
        self._execute_many(
            "UPDATE jobs SET reason = ?, detail = ?, flags = ? WHERE number = ?", verdicts
        )
        self._books.execute(
            f"UPDATE jobs SET reason = '{RejectionReason.DUPLICATE}', detail = "
            "'the text and photograph of job ' || again.first FROM (SELECT number, "
            f"FIRST_VALUE(id) OVER same AS first, ROW_NUMBER() OVER same AS nth FROM {_PAIRS} "
            "WINDOW same AS (PARTITION BY picture, words ORDER BY review = 'corrected' DESC, "
            "review = 'accepted' DESC, moment, id, number)) AS again "
            "WHERE again.number = jobs.number AND again.nth > 1"
        )

    def count_reasons(self) -> dict[str, int]:
        """Jobs for each reason, the most frequent first."""
        query = "SELECT reason, COUNT(*) FROM jobs WHERE reason != '' GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._books.execute(query))

    def count_records(self) -> dict[str, Any]:
        """How many records are kept, of how many pictures, and how they were read and found."""
        query = f"SELECT COUNT(*), COUNT(DISTINCT picture) FROM {_PAIRS}"
        linked, photos = self._books.execute(query).fetchone()
        repairs: Counter[str] = Counter()
        for (repairs_json,) in self._books.execute(
            f"SELECT json_extract(record, '$.repairs') FROM {_PAIRS}"
        ):
            repairs.update({repair.split(" ")[0] for repair in json.loads(repairs_json)})
        return {
            "linked": linked,
            "photos": photos,
            "forms": self._tally("json_extract(record, '$.form')"),
            "repairs": dict(sorted(repairs.items())),
            "found": self._tally("found"),
            "reviewed": self._tally("review", "AND review != ''"),
        }

    def _tally(self, name: str, which: str = "") -> dict[str, int]:
        """Records that are kept for each value of an expression."""
        query = f"SELECT {name}, COUNT(*) FROM {_PAIRS} {which} GROUP BY 1 ORDER BY 1"
        return dict(self._books.execute(query))

    def count_left_out_by_flags(self) -> Counter[tuple[str, ...]]:
        """Records that only suspicions keep out, by all the flags they bear."""
        query = f"SELECT flags FROM jobs JOIN photos USING (path) WHERE {_LEFT_OUT} AND flags != ''"
        return Counter(tuple(row[0].split()) for row in self._books.execute(query))

    def records(self, left_out: bool) -> Iterator[str]:
        """Records as JSON in the order of time: those left out beside the others, or those kept."""
        which = _LEFT_OUT if left_out else "jobs.reason = ''"
        photo = ("path", "sha256", "width", "height", "group", "found")
        query = (
            "SELECT record, jobs.reason, flags, path, sha256, width, height, picture, found "
            f"FROM jobs JOIN photos USING (path) WHERE {which} ORDER BY moment, id"
        )
        for record, reason, flags, *photo_values in self._books.execute(query):
            more = {
                "photo": dict(zip(photo, photo_values, strict=True)),
                "suspicions": flags.split(),
                "reason": reason or None,
            }
            yield json.dumps(json.loads(record) | more, ensure_ascii=False)

    def iter_rejected_json(self) -> Iterator[str]:
        """Rejected jobs as JSON in the order of time."""
        query = "SELECT id, reason, detail FROM jobs WHERE reason != '' ORDER BY moment, id"
        for row in self._books.execute(query):
            yield json.dumps(
                dict(zip(("job_id", "reason", "detail"), row, strict=True)), ensure_ascii=False
            )

    def _execute_many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            self._books.execute("BEGIN")
            self._books.executemany(query, rows)
            self._books.execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(f"{self._folder}: {error}; make room there, or set TMPDIR") from None


_JOB_COLUMNS = ", ".join(ExaminedJob._fields)
_LEFT_OUT = "record != '' AND jobs.reason != '' AND photos.reason = ''"
