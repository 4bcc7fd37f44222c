"""Critiques with feedback in a database, for `mondrian preferences`."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine, func, inspect, or_, select
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.core.fields import is_for_advisor
from mondrian.core.parallel import split_into_batches
from mondrian.core.params import Params
from mondrian.data.preferences import RatedCritique
from mondrian.serving.jobs.view import build_job_view
from mondrian.storage.engine import format_database_error, open_engine
from mondrian.storage.feedback import FeedbackRow, load_newest_feedback, load_votes
from mondrian.storage.jobs import JobRow
from mondrian.storage.tables import feedback, jobs, preferences

_BATCH_SIZE = 200  # jobs per query


def load_rated_critiques(
    db: str, advisor: str, params: Params, counts: Counter[str]
) -> Iterator[RatedCritique]:
    """Yield each critique of an advisor that has feedback or a vote.

    db      an SQLite file or a database URL
    counts  gets the numbers of `judged` jobs, of those with `no_critique`, and of `equal_votes`

    Raises DataError if the database cannot be read or has no feedback table.
    """
    if "://" not in db and not Path(db).is_file():
        raise DataError(f"--db {db} does not exist; give the service's --db")
    engine = open_engine(db)
    try:
        for table in (feedback, preferences):
            if not inspect(engine).has_table(table.name):
                raise DataError(f"--db {db} has no table {table.name}; start a service on it once")
        for ids in split_into_batches(iter(_load_rated_job_ids(engine, advisor)), _BATCH_SIZE):
            feedback_rows = load_newest_feedback(engine, ids)
            losers = _load_losers(engine, advisor, ids, counts)
            for row in _load_jobs(engine, ids):
                counts["judged"] += 1
                results = build_job_view(row, params, feedback_rows).results
                result = next((r for r in results if r.advisor == advisor), None)
                if result is None or result.served_json is None:
                    counts["no_critique"] += 1
                else:
                    rating = _to_rated_critique(row, result.served_json, result.feedback or {})
                    yield replace(rating, preferred_to=tuple(losers[row["id"]]))
    except SQLAlchemyError as error:
        raise DataError(f"--db cannot be read: {format_database_error(error)}") from None
    finally:
        engine.dispose()


def _load_rated_job_ids(engine: Engine, advisor: str) -> list[str]:
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
    return [id for id, advisors in rows if is_for_advisor(advisors or "", advisor)]


def _load_jobs(engine: Engine, ids: list[str]) -> list[JobRow]:
    query = select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
    with engine.execution_options(reads=True).begin() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def _load_losers(
    engine: Engine, advisor: str, ids: list[str], counts: Counter[str]
) -> dict[str, list[str]]:
    """Return the jobs that lost a vote, by the job that won it; count votes for neither."""
    losers: dict[str, list[str]] = defaultdict(list)
    for vote in load_votes(engine, ids):
        left, right = vote["left_job"], vote["right_job"]
        if vote["advisor"] != advisor:
            continue
        if vote["choice"] == "equal":
            counts["equal_votes"] += left in ids  # once, if the jobs are in two batches
        else:
            winner, loser = (left, right) if vote["choice"] == "left" else (right, left)
            losers[winner].append(loser)
    return losers


def _to_rated_critique(row: JobRow, critique: str, feedback_row: FeedbackRow) -> RatedCritique:
    return RatedCritique(
        job=row["id"],
        photo=row["photo_sha256"] or row["filename"] or "",
        filename=row["filename"] or "",
        critique=critique,
        corrected=feedback_row.get("critique") or "",
        thumbs=feedback_row.get("thumbs") or 0,
        verdict=feedback_row.get("verdict") or "",
        model_used=row["model_used"] or "",
        version=row["adapter_version"] or "",
        who=feedback_row.get("who") or "",
    )
