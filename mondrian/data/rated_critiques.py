"""Critiques with feedback or blind votes in a jobs database.

An SQLite file is copied first: the application's database is only read, and it may be in use.
"""

import re
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, func, inspect, or_, select
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.core.fields import is_for_advisor
from mondrian.core.parallel import split_into_batches
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import is_schema_valid, serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders, read_critique
from mondrian.data.jobs import Job
from mondrian.data.preferences import RatedCritique
from mondrian.data.sqlite_source import check_file, copy_database
from mondrian.storage.engine import format_database_error, open_engine, redact_url
from mondrian.storage.feedback import FeedbackRow, load_newest_feedback, load_votes
from mondrian.storage.job_reader import JobRow, read_rows
from mondrian.storage.tables import check_jobs_table, feedback, jobs, migrate, preferences

_BATCH_SIZE = 200  # jobs per query
_SQLITE_URL = "sqlite:///"
_SURROGATE = re.compile("[\ud800-\udfff]")
_JOB_COLUMNS = (
    "filename advisor llm_outputs analysis_markdown analysis_html prompt llm_prompt exposure"
).split()


class NoFeedbackError(DataError):
    """The database has no table of feedback."""


def load_rated_critiques(
    db: str, advisor: str, folders: ApplicationFolders, counts: Counter[str]
) -> Iterator[RatedCritique]:
    """Yield each critique of an advisor that has feedback or a vote.

    db      an SQLite file or a database URL
    counts  gets the numbers of `judged` jobs, of those with `no_critique` or a text that is
            `not_utf8`, and of `equal_votes`

    Raises NoFeedbackError if no service has used the database, DataError if it cannot be read.
    """
    try:
        with _open_for_reading(db) as engine:
            ids_in_order = iter(_load_rated_job_ids(engine, advisor, counts))
            for ids in split_into_batches(ids_in_order, _BATCH_SIZE):
                feedback_rows = load_newest_feedback(engine, ids)
                losers = _load_losers(engine, advisor, ids, counts)
                for row in _load_jobs(engine, ids):
                    counts["judged"] += 1
                    newest = feedback_rows.get((row["id"], advisor))
                    if _has_undecodable_text(row) or _has_undecodable_text(newest or {}):
                        counts["not_utf8"] += 1
                        continue
                    job = _build_job(row)
                    critique = _read_served(job, advisor, folders)
                    if not critique:
                        counts["no_critique"] += 1
                        continue
                    matching = _find_matching(newest, row, critique)
                    correction = matching.get("critique")
                    if correction and not is_schema_valid(correction):
                        counts["no_critique"] += 1
                        continue
                    rating = _to_rated_critique(row, critique, matching)
                    yield replace(
                        rating,
                        captured=job.capture_time(),
                        preferred_to=tuple(losers[row["id"]]),
                    )
    except SQLAlchemyError as error:
        message = format_database_error(error)
        raise DataError(f"{redact_url(db)} cannot be read: {message}") from None


@contextmanager
def _open_for_reading(db: str) -> Iterator[Engine]:
    """Open a server's database, or a copy of a file with the tables of this version."""
    with tempfile.TemporaryDirectory(prefix="mondrian-") as folder:
        is_file = "://" not in db or db.startswith(_SQLITE_URL)
        if is_file:
            path = Path(db.removeprefix(_SQLITE_URL))
            if not path.exists():
                raise DataError(f"--db {path} does not exist; give the service's --db")
            check_file(path)
            copy = copy_database(path.resolve(), Path(folder))
            try:
                engine = open_engine(str(copy))
            except DataError as error:  # it names the copy
                message = str(error).replace(f"--db {copy}", str(path))
                raise DataError(f"{message}; the file may be damaged") from None
            engine.dispose()  # its connection, which refuses a text that is not UTF-8
            event.listen(engine, "connect", _escape_undecodable_bytes)
        else:
            engine = open_engine(db)
        try:
            check_jobs_table(engine, redact_url(db))
            if not inspect(engine).has_table(feedback.name):
                raise NoFeedbackError(
                    f"{redact_url(db)} has no table {feedback.name}; start a service on it once"
                )
            if is_file:
                migrate(engine)
            yield engine
        finally:
            engine.dispose()


def _escape_undecodable_bytes(connection: sqlite3.Connection, _: Any) -> None:
    """Read each byte of a text that is not UTF-8 as a surrogate, which no UTF-8 text has."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def _has_undecodable_text(row: Mapping[str, Any]) -> bool:
    return any(isinstance(value, str) and _SURROGATE.search(value) for value in row.values())


def _load_rated_job_ids(engine: Engine, advisor: str, counts: Counter[str]) -> list[str]:
    """Return the ids of jobs with feedback or votes; count those that are not UTF-8."""
    with_feedback = select(feedback.c.job).where(feedback.c.advisor == advisor)
    voted = [
        select(column).where(preferences.c.advisor == advisor, preferences.c.choice.is_not(None))
        for column in (preferences.c.left_job, preferences.c.right_job)
    ]
    ids = with_feedback.union(*voted)
    query = select(jobs.c.id, jobs.c.advisor).where(
        or_(func.coalesce(jobs.c.thumbs, 0) != 0, jobs.c.id.in_(ids))
    )
    with engine.execution_options(reads=True).begin() as connection:
        rows = connection.execute(query.order_by(jobs.c.id)).all()
    rated = [id for id, advisors in rows if is_for_advisor(advisors or "", advisor)]
    usable = [id for id in rated if not _has_undecodable_text({"id": id})]
    counts["judged"] += len(rated) - len(usable)
    counts["not_utf8"] += len(rated) - len(usable)
    return usable


def _load_jobs(engine: Engine, ids: list[str]) -> list[JobRow]:
    query = select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
    with engine.execution_options(reads=True).begin() as connection:
        return read_rows(connection.execute(query))


def _load_losers(
    engine: Engine, advisor: str, ids: list[str], counts: Counter[str]
) -> dict[str, list[str]]:
    """Return the jobs that lost a vote, by the job that won it; count the other votes."""
    losers: dict[str, list[str]] = defaultdict(list)
    for vote in load_votes(engine, ids):
        left, right = vote["left_job"], vote["right_job"]
        if vote["advisor"] != advisor:
            continue
        if vote["choice"] == "equal":
            counts["equal_votes"] += left in ids  # once, if the jobs are in two batches
        elif _has_undecodable_text(vote):
            counts["not_utf8"] += left in ids
        else:
            winner, loser = (left, right) if vote["choice"] == "left" else (right, left)
            losers[winner].append(loser)
    return losers


def _build_job(row: JobRow) -> Job:
    texts: dict[str, Any] = {name: str(row[name] or "") for name in _JOB_COLUMNS}
    return Job(id=str(row["id"]), **texts)


def _read_served(job: Job, advisor: str, folders: ApplicationFolders) -> str:
    """Return the canonical critique of a job; empty if it has none with scores."""
    outcome = read_critique(job, advisor, folders)
    if isinstance(outcome, Rejection) or not outcome[1].scored:
        return ""
    return serialize_critique(outcome[1].critique)


def _find_matching(newest: FeedbackRow | None, row: JobRow, critique: str) -> FeedbackRow:
    """Return the newest feedback if it is about this critique, else what the job's row holds."""
    if newest and newest["original"] == critique:
        return newest
    # thumbs in the job's row may be older than the feedback table
    return {} if "," in (row["advisor"] or "") else {"thumbs": row["thumbs"]}


def _to_rated_critique(row: JobRow, critique: str, feedback_row: FeedbackRow) -> RatedCritique:
    thumbs = feedback_row.get("thumbs")
    return RatedCritique(
        job=str(row["id"]),
        photo=str(row["photo_sha256"] or row["filename"] or ""),
        filename=str(row["filename"] or ""),
        critique=critique,
        corrected=feedback_row.get("critique") or "",
        thumbs=thumbs if isinstance(thumbs, int) else 0,  # SQLite stores any value anywhere
        verdict=feedback_row.get("verdict") or "",
        model_used=row["model_used"] or "",
        version=row["adapter_version"] or "",
        who=feedback_row.get("who") or "",
    )
