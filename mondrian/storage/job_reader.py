"""Reads of the table `jobs`, on connections of their own: they do not wait for writers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sqlalchemy import ColumnElement, Double, Engine, Integer, Result, Select, case, func, select

from mondrian.storage.engine import open_reader
from mondrian.storage.tables import jobs

JobRow = dict[str, Any]
# Long texts, which a list of jobs does not need
_UNLISTED_COLUMNS = ("prompt", "llm_prompt", "analysis_html", "summary_html", "advisor_bio_html")
_NUMBER_COLUMNS = frozenset(
    column.name for column in jobs.columns if isinstance(column.type, (Integer, Double))
)
_damaged_ids: set[str] = set()  # jobs that were logged
log = logging.getLogger("mondrian.database")


@dataclass(frozen=True)
class QueueRow:
    """What a page shows of a job that waits or runs."""

    status: str
    current_step: str
    progress_percentage: int
    place: int  # in the queue, from 1; 0 if it is not queued


class JobReader:
    """The jobs of a database, to read."""

    def __init__(self, engine: Engine) -> None:
        self.reader = open_reader(engine)

    def get(self, id: str) -> JobRow | None:
        return self._select_first(jobs.c.id == id)

    def find_by_photo(self, filename: str) -> JobRow | None:
        """Return a job of a Mondrian service with this photo."""
        return self._select_first(jobs.c.filename == filename, jobs.c.kind.is_not(None))

    def list_newest(
        self,
        max_rows: int,
        kinds: tuple[str, ...] | None = None,
        columns: Sequence[str] = (),
    ) -> list[JobRow]:
        """Return the newest jobs of these kinds; without kinds all but shadow jobs.

        columns  all but long texts by default
        """
        kind = jobs.c.kind
        condition = kind.in_(kinds) if kinds else func.coalesce(kind, "") != "shadow"
        names = columns or [name for name in jobs.c.keys() if name not in _UNLISTED_COLUMNS]
        order = (jobs.c.queued_at.desc().nulls_last(), jobs.c.id)
        query = select(*(jobs.c[name] for name in names)).where(condition)
        query = query.order_by(*order).limit(max_rows)
        with self.reader.begin() as connection:
            return read_rows(connection.execute(query))

    def count_queued(self) -> int:
        query = select(func.count()).where(jobs.c.status == "queued", jobs.c.kind.is_not(None))
        with self.reader.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def load_queue_rows(self, ids: Sequence[str]) -> dict[str, QueueRow]:
        """Return the state of jobs, and their places among the queued jobs of all services."""
        columns = (jobs.c.id, jobs.c.status, jobs.c.current_step, jobs.c.progress_percentage)
        query = select(*columns).where(jobs.c.id.in_(ids))
        with self.reader.begin() as connection:
            rows = read_rows(connection.execute(query))
            places: dict[str, int] = {}
            if any(row["status"] == "queued" for row in rows):
                waiting = connection.execute(select_queued_ids()).scalars().all()
                places = {id: place for place, id in enumerate(waiting, 1)}
        return {
            row["id"]: QueueRow(
                row["status"] or "",
                row["current_step"] or "",
                row["progress_percentage"] or 0,
                places.get(row["id"], 0),
            )
            for row in rows
        }

    def _select_first(self, *conditions: ColumnElement[bool]) -> JobRow | None:
        with self.reader.begin() as connection:
            rows = read_rows(connection.execute(select(jobs).where(*conditions).limit(1)))
        return rows[0] if rows else None


def read_rows(result: Result[Any]) -> list[JobRow]:
    """Return rows that have the column id as dictionaries.

    SQLite stores any value in any column. What is no number in a column of numbers is read as
    None, and its job is logged once.
    """
    return [_read_row(dict(row)) for row in result.mappings()]


def select_queued_ids() -> Select[str]:
    """Select the queued jobs in the order in which they are claimed."""
    is_shadow = case((jobs.c.kind == "shadow", 1), else_=0)
    query = select(jobs.c.id).where(jobs.c.status == "queued", jobs.c.id.is_not(None))
    query = query.where(jobs.c.kind.in_(("upload", "shadow")))
    return query.order_by(is_shadow, jobs.c.queued_at, jobs.c.id)


def _read_row(row: JobRow) -> JobRow:
    damaged = []
    for name in _NUMBER_COLUMNS & row.keys():
        value = row[name]
        if value is not None and not _is_finite_number(value):
            row[name] = _parse_number(value)
            if row[name] is None:
                damaged.append(name)
    if damaged and row["id"] not in _damaged_ids:
        _damaged_ids.add(row["id"])
        message = "job %s: what another program wrote into %s is no number; shown as empty"
        log.warning(message, row["id"], ", ".join(sorted(damaged)))
    return row


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _parse_number(value: Any) -> float | None:
    """Return the number in a text of a column without a type, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not isfinite(number):
        return None
    return int(number) if number.is_integer() else number
