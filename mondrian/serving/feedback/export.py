"""The jobs of a database that people have judged, as `preferences` takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, func, inspect, or_, select
from sqlalchemy.exc import SQLAlchemyError

from mondrian.core.errors import DataError
from mondrian.core.fields import concerns
from mondrian.core.parallel import batches
from mondrian.core.params import Params
from mondrian.data.preference_pairs import Voice
from mondrian.serving.jobs.view import Said, read
from mondrian.storage.engine import one_line, open_engine
from mondrian.storage.feedback import newest
from mondrian.storage.jobs import DONE, Row
from mondrian.storage.tables import feedback, jobs

_BATCH = 200  # jobs read at a time


def voices(db: str, advisor: str, params: Params, counts: Counter[str]) -> Iterator[Voice]:
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
        for ids in batches(iter(_judged(engine, advisor)), _BATCH):
            yield from _read(engine, ids, advisor, params, counts)
    except SQLAlchemyError as error:
        raise DataError(f"--db cannot be read: {one_line(error)}") from None
    finally:
        engine.dispose()


def _judged(engine: Engine, advisor: str) -> list[str]:
    said = select(feedback.c.job).where(feedback.c.advisor == advisor)
    query = select(jobs.c.id, jobs.c.advisor).where(
        or_(func.coalesce(jobs.c.thumbs, 0) != 0, jobs.c.id.in_(said))
    )
    with engine.execution_options(reads=True).begin() as connection:
        rows = connection.execute(query.order_by(jobs.c.id)).all()
    return [id for id, field in rows if concerns(field or "", advisor)]


def _read(
    engine: Engine, ids: list[str], advisor: str, params: Params, counts: Counter[str]
) -> Iterator[Voice]:
    said = newest(engine, ids)
    with engine.execution_options(reads=True).begin() as connection:
        query = select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    for row in rows:
        counts["judged"] += 1
        one = next((o for o in read(row, params, said).said if o.advisor == advisor), None)
        if row["status"] not in DONE or one is None or one.served is None:
            counts["no_critique"] += 1
        else:
            yield _voice(row, one, one.served)


def _voice(row: Row, one: Said, critique: str) -> Voice:
    kept = one.kept or {}
    return Voice(
        job=row["id"], photo=row["photo_sha256"] or row["filename"] or "",
        filename=row["filename"] or "", critique=critique, corrected=kept.get("critique") or "",
        thumbs=kept.get("thumbs") or 0, verdict=kept.get("verdict") or "",
        arm=row["model_used"] or "", version=row["adapter_version"] or "",
        who=kept.get("who") or "",
    )  # fmt: skip
