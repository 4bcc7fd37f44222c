"""The jobs of a database that people have judged, as `preferences` takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, func, inspect, or_, select
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.core.fields import is_for_advisor
from mondrian.core.parallel import split_into_batches
from mondrian.core.params import Params
from mondrian.data.preferences import RatedCritique
from mondrian.serving.jobs.view import AdvisorResult, build_job_view
from mondrian.storage.engine import format_database_error, open_engine
from mondrian.storage.feedback import load_newest_feedback
from mondrian.storage.jobs import COMPLETED_STATUSES, JobRow
from mondrian.storage.tables import feedback, jobs

_BATCH = 200  # jobs read at a time


def load_rated_critiques(
    db: str, advisor: str, params: Params, counts: Counter[str]
) -> Iterator[RatedCritique]:
    """Each judged critique of an advisor; what is left out is counted.

    db  an SQLite file or a database URL, as the service takes it

    Raises DataError where it cannot be read, or no service has ever kept feedback there.
    """
    if "://" not in db and not Path(db).is_file():
        raise DataError(f"--db {db} does not exist; give the service's --db")
    engine = open_engine(db)
    try:
        if not inspect(engine).has_table(feedback.name):
            raise DataError(f"--db {db} has no table {feedback.name}; start a service on it once")
        for ids in split_into_batches(iter(_load_rated_job_ids(engine, advisor)), _BATCH):
            yield from _read(engine, ids, advisor, params, counts)
    except SQLAlchemyError as error:
        raise DataError(f"--db cannot be read: {format_database_error(error)}") from None
    finally:
        engine.dispose()


def _load_rated_job_ids(engine: Engine, advisor: str) -> list[str]:
    job_ids = select(feedback.c.job).where(feedback.c.advisor == advisor)
    query = select(jobs.c.id, jobs.c.advisor).where(
        or_(func.coalesce(jobs.c.thumbs, 0) != 0, jobs.c.id.in_(job_ids))
    )
    with engine.execution_options(reads=True).begin() as connection:
        rows = connection.execute(query.order_by(jobs.c.id)).all()
    return [id for id, field in rows if is_for_advisor(field or "", advisor)]


def _read(
    engine: Engine, ids: list[str], advisor: str, params: Params, counts: Counter[str]
) -> Iterator[RatedCritique]:
    feedback_rows = load_newest_feedback(engine, ids)
    with engine.execution_options(reads=True).begin() as connection:
        query = select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        counts["judged"] += 1
        result = next(
            (o for o in build_job_view(row, params, feedback_rows).said if o.advisor == advisor),
            None,
        )
        if row["status"] not in COMPLETED_STATUSES or result is None or result.served_json is None:
            counts["no_critique"] += 1
        else:
            yield _build_rated_critique(row, result, result.served_json)


def _build_rated_critique(row: JobRow, result: AdvisorResult, critique: str) -> RatedCritique:
    feedback_row = result.kept or {}
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
