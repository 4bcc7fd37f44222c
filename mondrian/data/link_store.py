"""Scratch database of the link stage: one row per finished job with its outcome.

It is on disk rather than in memory, and deleted afterwards. A job has a reason code (it is
rejected), or a record and perhaps flags.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mondrian.core.errors import DataError
from mondrian.critique.rejection import RejectionReason
from mondrian.data.link_tables import SCHEMA, ExaminedJob, OtherText, Pair
from mondrian.data.photos.copy_kinds import SAME_BYTES
from mondrian.data.photos.near_duplicates import PhotoGroup
from mondrian.data.photos.photo_conflicts import Claim
from mondrian.data.photos.photo_scan import PhotoInfo


class LinkStore:
    """Filled with jobs, then with photos; read in order of time."""

    def __init__(self, connection: sqlite3.Connection, folder: str) -> None:
        self._connection, self._folder = connection, folder

    def add_jobs(self, jobs: Iterable[ExaminedJob]) -> None:
        self._insert("jobs", ExaminedJob._fields, jobs)

    def doubtful_matches(self) -> set[Claim]:
        """Return the photos and assumed source folders of matches that others may contradict."""
        query = "SELECT DISTINCT path, assumed_source FROM jobs WHERE assumed_source != ''"
        return {(Path(path), assumed) for path, assumed in self._connection.execute(query)}

    def reject_ambiguous(self, conflicts: Mapping[Claim, str]) -> None:
        """Reject the jobs of these matches, each with its message."""
        self._connection.execute(
            "CREATE INDEX by_claim ON jobs (path, assumed_source) WHERE assumed_source != ''"
        )
        self._execute_many(
            f"UPDATE jobs SET reason = '{RejectionReason.IMAGE_AMBIGUOUS}', detail = ?, "
            "record = '' WHERE path = ? AND assumed_source = ? AND assumed_source != ''",
            ((detail, str(path), assumed) for (path, assumed), detail in conflicts.items()),
        )

    def photo_paths(self) -> list[Path]:
        query = "SELECT DISTINCT path FROM jobs WHERE reason = '' ORDER BY path"
        return list(map(Path, self._column(query)))

    def add_photos(self, photos: Iterable[tuple[Path, PhotoInfo]]) -> None:
        """Add photos, and reject the jobs of those that cannot be used."""
        rows = ((str(path), *astuple(info)) for path, info in photos)
        self._insert("photos", ("path", *(field.name for field in fields(PhotoInfo))), rows)
        self._connection.execute(
            "UPDATE jobs SET reason = photos.reason, detail = jobs.path || ': ' || photos.detail "
            "FROM photos WHERE jobs.path = photos.path AND photos.reason != '' AND jobs.reason = ''"
        )

    def fingerprints(self) -> dict[str, bytes]:
        """Return the fingerprint of each usable photo by sha256."""
        query = "SELECT DISTINCT sha256, fingerprint FROM photos WHERE reason = '' ORDER BY sha256"
        return dict(self._connection.execute(query))

    def set_photo_groups(self, groups: dict[str, PhotoGroup]) -> None:
        """Set the group of near-duplicates of each photo, and how it differs from the first one."""
        rows = ((group.name, group.copy_kind, sha256) for sha256, group in groups.items())
        self._connection.executescript(
            "CREATE INDEX by_time ON jobs (timestamp, id); CREATE INDEX by_path ON jobs (path);"
            "CREATE INDEX by_content ON photos (sha256, path);"
        )
        update = "UPDATE photos SET photo_group = ?, copy_kind = ? WHERE sha256 = ?"
        self._execute_many(update, rows)
        self._connection.execute(
            f"UPDATE photos SET copy_kind = '{SAME_BYTES}' WHERE reason = '' AND copy_kind = '' "
            "AND path > (SELECT MIN(path) FROM photos AS same WHERE same.sha256 = photos.sha256)"
        )

    def find_shared_texts(self) -> set[str]:
        query = "SELECT words FROM pairs GROUP BY words HAVING COUNT(DISTINCT photo_group) > 1"
        return set(self._column(query))

    def photo_ids(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, sha256 and photo_group of each usable photo."""
        query = "SELECT path, sha256, photo_group FROM photos WHERE reason = ''"
        yield from self._connection.execute(query)

    def add_other_texts(self, texts: Iterable[OtherText]) -> None:
        self._insert("other_texts", OtherText._fields, texts)

    def texts_of_repeated_files(self) -> Iterator[tuple[str, str, str, bool, str]]:
        """Yield sha256, advisor, words, is_reviewed and critique of files with several texts."""
        yield from self._connection.execute(
            "SELECT sha256, advisor, words, is_reviewed, critique FROM texts WHERE sha256 IN "
            "(SELECT sha256 FROM texts GROUP BY sha256 HAVING COUNT(DISTINCT words) > 1) "
            "AND sha256 != '' ORDER BY sha256, words, advisor"
        )

    def background_texts(self, max_rows: int) -> Iterator[tuple[str, str, str]]:
        """Yield advisor, photo and critique of texts by the advisor and of as many by others."""
        query = (
            "SELECT advisor, MIN(photo), critique FROM texts WHERE {} "
            "GROUP BY words ORDER BY words LIMIT ?"
        )
        for condition in ("advisor = ''", "advisor != ''"):
            yield from self._connection.execute(query.format(condition), [max_rows])

    def scored_texts(self) -> Iterator[tuple[tuple[float, ...], str, str, bool]]:
        """Yield scores, words, photo and is_template of all critiques, used or not."""
        query = (
            "SELECT scores, words, COALESCE(NULLIF(photo_group, ''), path), "
            "flags LIKE '%template_scores%' FROM jobs LEFT JOIN photos USING (path) "
            "WHERE scores != '' AND flags NOT LIKE '%made_by_adapter%'"
        )
        for scores, *values in self._connection.execute(query):
            yield (_parse_scores(scores), *values)

    def pairs(self) -> Iterator[Pair]:
        """Yield every pair, in any order."""
        query = "SELECT number, sha256, words, scores, flags, review FROM pairs"
        for number, sha256, words, scores, *values in self._connection.execute(query):
            yield Pair(number, sha256, words, _parse_scores(scores), *values)

    def set_outcomes(self, outcomes: Iterable[tuple[str, str, str, bool, int]]) -> None:
        """Set reason, detail, flags and scored of records by number; then reject duplicates.

        Of equal texts the corrected one stays, else the accepted, else one with scores, else the
        first.
        """
        query = "UPDATE jobs SET reason = ?, detail = ?, flags = ?, scored = ? WHERE number = ?"
        self._execute_many(query, outcomes)
        self._connection.execute(
            f"UPDATE jobs SET reason = '{RejectionReason.DUPLICATE}', detail = "
            "'same text and photo as job ' || copies.first FROM (SELECT number, "
            "FIRST_VALUE(id) OVER same AS first, ROW_NUMBER() OVER same AS nth FROM pairs "
            "WINDOW same AS (PARTITION BY photo_group, words ORDER BY review = 'corrected' DESC, "
            "review = 'accepted' DESC, scored DESC, timestamp, id, number)) AS copies "
            "WHERE copies.number = jobs.number AND copies.nth > 1"
        )

    def count_jobs(self) -> tuple[int, int, int]:
        """Return the number of jobs, of pairs and of their photo groups."""
        (jobs,) = self._column("SELECT COUNT(*) FROM jobs")
        query = "SELECT COUNT(*), COUNT(DISTINCT photo_group) FROM pairs"
        return (jobs, *self._connection.execute(query).fetchone())

    def count_reasons(self) -> dict[str, int]:
        query = "SELECT reason, COUNT(*) FROM jobs WHERE reason != '' GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._connection.execute(query))

    def count_origins(self) -> dict[str, Any]:
        """Return how many pairs have each form, repair, filename match and review, or no scores."""
        repairs: Counter[str] = Counter()
        for names in self._column("SELECT json_extract(record, '$.repairs') FROM pairs"):
            repairs.update({name.split(" ")[0] for name in json.loads(names)})
        return {
            "forms": self._count_by("json_extract(record, '$.form')"),
            "repairs": dict(sorted(repairs.items())),
            "match_kinds": self._count_by("match_kind"),
            "reviewed": self._count_by("NULLIF(review, '')"),
            "text_only": self._column("SELECT COUNT(*) FROM pairs WHERE NOT scored")[0],
        }

    def _count_by(self, expression: str) -> dict[str, int]:
        query = f"SELECT {expression}, COUNT(*) FROM pairs GROUP BY 1 HAVING {expression} NOTNULL"
        return dict(self._connection.execute(f"{query} ORDER BY 1"))

    def count_left_out_by_flags(self) -> Counter[tuple[str, ...]]:
        flags = self._column("SELECT flags FROM left_out WHERE flags != ''")
        return Counter(tuple(names.split()) for names in flags)

    def records(self, left_out: bool) -> Iterator[str]:
        """Yield records as JSON in order of time: those that are left out, or the others."""
        photo_keys = "path sha256 width height group match_kind copy_kind captured".split()
        query = (
            "SELECT record, reason, flags, scored, photo_notes, path, sha256, width, height, "
            "photo_group, match_kind, copy_kind, captured "
            f"FROM {'left_out' if left_out else 'pairs'} ORDER BY timestamp, id"
        )
        for record, reason, flags, scored, notes, *photo in self._connection.execute(query):
            content = json.loads(record)
            del content["captured"]  # it is part of the photo
            details = {
                "notes": [*content["notes"], *filter(None, notes.split("\n"))],
                "photo": dict(zip(photo_keys, photo, strict=True)),
                "suspicions": flags.split(),
                "scored": bool(scored),
                "reason": reason or None,
            }
            yield json.dumps(content | details, ensure_ascii=False)

    def first_rejections(self, count: int) -> list[tuple[str, str]]:
        """Return the most frequent reasons with details, and id and detail of the first job."""
        query = """SELECT reason, id || ': ' || substr(detail, 1, 200), MIN(number) FROM jobs
            WHERE reason != '' AND detail != '' GROUP BY reason ORDER BY COUNT(*) DESC LIMIT ?"""
        rows = self._connection.execute(query, (count,))
        return [(reason, " ".join(example.split())) for reason, example, _ in rows]

    def rejected_jobs(self) -> Iterator[str]:
        query = (
            "SELECT id, substr(path, 1, 300), reason, detail FROM jobs WHERE reason != '' "
            "ORDER BY timestamp, id"
        )
        for job_id, photo, reason, detail in self._connection.execute(query):
            job = {"job_id": job_id, "photo": photo, "reason": reason, "detail": detail}
            yield json.dumps(job, ensure_ascii=False)

    def _insert(
        self, table: str, columns: Sequence[str], rows: Iterable[tuple[object, ...]]
    ) -> None:
        marks = ", ".join("?" * len(columns))
        self._execute_many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)

    def _column(self, query: str, *parameters: object) -> list[Any]:
        return [value for (value,) in self._connection.execute(query, parameters)]

    def _execute_many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(query, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(f"{self._folder}: {error}; make room there, or set TMPDIR") from None


def _parse_scores(scores: str) -> tuple[float, ...]:
    return tuple(map(float, scores.split()))


@contextmanager
def open_link_store() -> Iterator[LinkStore]:
    """Create an empty store that is deleted when the context ends."""
    with TemporaryDirectory(prefix="mondrian-") as folder:
        path = Path(folder) / "link.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(SCHEMA)
            yield LinkStore(connection, folder)
