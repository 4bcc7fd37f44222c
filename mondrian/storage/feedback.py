"""Feedback on critiques, in the table `mondrian_feedback`. Rows are only ever added.

A row is all feedback on one advisor's critique in one job: thumbs, note and verdict (accepted or
corrected, for training), with a snapshot of the critique, the photo and the model that answered.
The newest row of a job and advisor counts, as long as the job still has the critique that the row
is about. Requeuing a job adds an empty row; deleting a job deletes its rows.

The table `mondrian_preferences` has blind votes on two critiques of one photo. Requeuing one of the
jobs adds a row without a choice; deleting one deletes the votes.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, or_, select

from mondrian.storage.job_reader import read_rows
from mondrian.storage.tables import feedback, jobs, preferences

FeedbackRow = dict[str, Any]
VoteRow = dict[str, Any]
CHOICES = ("left", "right", "equal")  # of a vote
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
        job = next(iter(read_rows(connection.execute(query))), None)
        if job is None or _has_changed(job, row):
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
    """Add an empty row for each advisor with feedback or votes, so the old rows do not count."""
    columns = (feedback.c.job, feedback.c.advisor, feedback.c.rollout)
    query = select(*columns).where(feedback.c.job == id).distinct()
    for row in connection.execute(query).mappings().all():
        connection.execute(feedback.insert(), {**row, "at": time.time()})
    for vote in _select_votes(connection, [id]):
        del vote["number"]
        connection.execute(preferences.insert(), {**vote, "choice": None, "at": time.time()})


def add_vote(engine: Engine, advisor: str, pair: Sequence[Mapping[str, Any]], choice: str) -> bool:
    """Add a vote on the critiques of two jobs, the left one first.

    choice  one of CHOICES

    Return False if a job has changed since `pair` was read, or if there is a vote already: a second
    one would not be blind.
    """
    left, right = (row["id"] for row in pair)
    with engine.begin() as connection:
        query = select(jobs).where(jobs.c.id.in_((left, right))).order_by(jobs.c.id)
        current = {row["id"]: row for row in connection.execute(query.with_for_update()).mappings()}
        if any(_has_changed(current.get(row["id"]), row) for row in pair):
            return False
        if any(vote["advisor"] == advisor for vote in _select_votes(connection, [left])):
            return False
        values = {"advisor": advisor, "left_job": left, "right_job": right, "choice": choice}
        connection.execute(preferences.insert(), values | {"at": time.time()})
    return True


def load_votes(engine: Engine, ids: Iterable[str]) -> list[VoteRow]:
    """Return the vote on each pair with one of these jobs, by advisor."""
    with engine.execution_options(reads=True).begin() as connection:
        return _select_votes(connection, list(ids))


def delete_feedback(connection: Connection, ids: Select[Any]) -> None:
    """Delete all feedback and votes on jobs."""
    votes = or_(preferences.c.left_job.in_(ids), preferences.c.right_job.in_(ids))
    connection.execute(feedback.delete().where(feedback.c.job.in_(ids)))
    connection.execute(preferences.delete().where(votes))


def _has_changed(job: Mapping[Any, Any] | None, row: Mapping[str, Any]) -> bool:
    """Return whether a job was deleted or restarted since `row` was read."""
    return job is None or any(job[name] != row[name] for name in ("status", "completed_at"))


def _select_votes(connection: Connection, ids: Sequence[str]) -> list[VoteRow]:
    columns = preferences.c
    newest = select(func.max(columns.number))
    newest = newest.where(or_(columns.left_job.in_(ids), columns.right_job.in_(ids)))
    newest = newest.group_by(columns.advisor, columns.left_job, columns.right_job)
    query = select(preferences).where(columns.number.in_(newest), columns.choice.is_not(None))
    return [dict(row) for row in connection.execute(query.order_by(columns.number)).mappings()]


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
