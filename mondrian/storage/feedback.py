"""Feedback on critiques, in the table `mondrian_feedback`. Rows are only ever added.

A row is all feedback on one advisor's critique in one job: thumbs, note and verdict (accepted or
corrected, for training), with a snapshot of the critique, the photo and the model that answered.
The newest row of a job and advisor counts, as long as the job still has the critique that the row
is about. Requeuing a job adds an empty row; deleting a job deletes its rows.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, func, select

from mondrian.storage.tables import feedback, jobs

FeedbackRow = dict[str, Any]
FEEDBACK_COLUMNS = ("thumbs", "note", "verdict", "critique", "who")
_COPIED_COLUMNS = ("photo_sha256", "side", "model_used", "adapter_version", "rollout")
_MAX_HISTORY_ROWS = 100


def add_feedback(
    engine: Engine, row: Mapping[str, Any], values: FeedbackRow, served: Mapping[str, str | None]
) -> bool:
    """Add feedback on a job; return False if the job has changed since `row` was read.

    values  new values of FEEDBACK_COLUMNS; columns that are absent keep their last value
    served  canonical critique as served, by advisor that the feedback is about; None if invalid
    """
    with engine.begin() as connection:
        query = select(jobs).where(jobs.c.id == row["id"]).with_for_update()
        job = connection.execute(query).mappings().first()
        if job is None or any(job[name] != row[name] for name in ("status", "completed_at")):
            return False
        newest = _select_newest(connection, feedback.c.job == row["id"])
        for advisor, original in served.items():
            previous = newest.get((row["id"], advisor))
            if not previous or previous["original"] != original:
                # thumbs and note in the job's row may be older than the feedback table
                is_single = "," not in (job["advisor"] or "")
                previous = {"thumbs": job["thumbs"], "note": job["note"]} if is_single else {}
            new_row = {
                "job": row["id"],
                "advisor": advisor,
                "at": time.time(),
                "original": original,
                **{name: job[name] for name in _COPIED_COLUMNS},
                **_merge_values(previous, values),
            }
            connection.execute(feedback.insert(), new_row)
        job_values = {name: value for name, value in values.items() if name in ("thumbs", "note")}
        if job_values:  # in a job of several advisors, the last feedback is in the job's row
            connection.execute(jobs.update().where(jobs.c.id == row["id"]), job_values)
    return True


def load_newest_feedback(engine: Engine, ids: Iterable[str]) -> dict[tuple[str, str], FeedbackRow]:
    """Return the newest row of each job and advisor."""
    with engine.execution_options(reads=True).begin() as connection:
        return _select_newest(connection, feedback.c.job.in_(list(ids)))


def load_rollout_feedback(engine: Engine, rollout: str) -> dict[tuple[str, str], FeedbackRow]:
    """Return the newest row of each job and advisor in a rollout."""
    with engine.execution_options(reads=True).begin() as connection:
        return _select_newest(connection, feedback.c.rollout == rollout)


def load_feedback_history(engine: Engine, id: str) -> list[FeedbackRow]:
    """Return a job's rows, newest first, at most 100."""
    query = select(feedback).where(feedback.c.job == id).order_by(feedback.c.number.desc())
    with engine.execution_options(reads=True).begin() as connection:
        return [dict(row) for row in connection.execute(query.limit(_MAX_HISTORY_ROWS)).mappings()]


def withdraw_feedback(connection: Connection, id: str) -> None:
    """Add an empty row for each advisor with feedback on the job, so the old rows do not count."""
    columns = (feedback.c.job, feedback.c.advisor, feedback.c.rollout)
    query = select(*columns).where(feedback.c.job == id).distinct()
    for row in connection.execute(query).mappings().all():
        connection.execute(feedback.insert(), {**row, "at": time.time()})


def _select_newest(
    connection: Connection, condition: ColumnElement[bool]
) -> dict[tuple[str, str], FeedbackRow]:
    newest = select(func.max(feedback.c.number)).where(condition)
    newest = newest.group_by(feedback.c.job, feedback.c.advisor)
    rows = connection.execute(select(feedback).where(feedback.c.number.in_(newest))).mappings()
    return {(row["job"], row["advisor"]): dict(row) for row in rows}


def _merge_values(previous: FeedbackRow, values: FeedbackRow) -> FeedbackRow:
    row = {name: previous.get(name) for name in FEEDBACK_COLUMNS} | values
    if "verdict" in values:
        row["who"] = values.get("who")
    elif previous.get("verdict"):  # a verdict keeps the name of the person who gave it
        row["who"] = previous["who"]
    if values.get("thumbs") == -1 and "verdict" not in values and row["verdict"] == "accepted":
        row["verdict"] = None  # thumbs down withdraws an acceptance
    return row
