"""Tables, views and rows of the scratch database that mondrian/data/link_store.py fills.

The views hold records with their photos: `pairs` those that are used, `left_out` those that a flag
keeps out, `texts` what is known about what a file shows.
"""

from typing import NamedTuple

SCHEMA = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, timestamp REAL, id TEXT, reason TEXT, detail TEXT,
        path TEXT, match_kind TEXT, assumed_source TEXT, words TEXT, scores TEXT, flags TEXT,
        review TEXT, record TEXT, scored INTEGER DEFAULT 1);
    CREATE TABLE photos (
        path TEXT PRIMARY KEY, sha256 TEXT, width INTEGER, height INTEGER, fingerprint BLOB,
        notes TEXT, captured TEXT, reason TEXT, detail TEXT, photo_group TEXT DEFAULT '',
        copy_kind TEXT DEFAULT '');
    CREATE TABLE other_texts (advisor TEXT, photo TEXT, sha256 TEXT, words TEXT, critique TEXT);
    CREATE VIEW records AS
        SELECT jobs.*, sha256, width, height, photo_group, copy_kind, photos.notes AS photo_notes,
            photos.reason AS photo_reason,
            COALESCE(NULLIF(captured, ''), json_extract(record, '$.captured')) AS captured
        FROM jobs JOIN photos USING (path);
    CREATE VIEW pairs AS SELECT * FROM records WHERE reason = '';
    CREATE VIEW left_out AS
        SELECT * FROM records WHERE reason != '' AND record != '' AND photo_reason = '';
    CREATE VIEW texts AS  -- that tell what a file shows; an adapter's only if a person has agreed
        SELECT sha256, '' AS advisor, words, MAX(review != '') AS is_reviewed,
            json_extract(record, '$.critique') AS critique, photo_group AS photo
        FROM pairs WHERE flags NOT LIKE '%made_by_adapter%' OR review != '' GROUP BY sha256, words
        UNION ALL
        SELECT sha256, advisor, words, 0, critique, photo
        FROM other_texts GROUP BY sha256, advisor, words;
"""


class ExaminedJob(NamedTuple):
    """The outcome of one job on its own: a reason and its detail, or a record without its photo."""

    timestamp: float
    id: str
    reason: str = ""
    detail: str = ""
    path: str = ""  # of the photo; its stored name if it was not searched or found
    match_kind: str = ""  # see MatchKind
    assumed_source: str = ""  # see PhotoMatch
    words: str = ""  # words_hash of the critique
    scores: str = ""  # the seven, separated by spaces
    flags: str = ""  # separated by spaces
    review: str = ""  # accepted or corrected by a person
    record: str = ""  # JSON


class Pair(NamedTuple):
    """What the filters that compare records need of one."""

    number: int
    sha256: str
    words: str
    scores: tuple[float, ...]
    flags: str
    review: str


class OtherText(NamedTuple):
    """A critique by another advisor, as evidence of what its photo shows."""

    advisor: str
    photo: str  # equal for copies of a photo
    sha256: str  # of the linked advisor's photo with the same bytes; empty if there is none
    words: str
    critique: str  # JSON
