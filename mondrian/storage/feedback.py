"""What people say of critiques, in the table `mondrian_feedback`: rows are only ever added.

A row holds all that is said of one advisor's critique in one job: the thumbs and the note, whether
it is to be trained on (as it stands, or as corrected), and, as they were then, the critique, the
photograph and who answered. The newest row of a job and advisor counts, as long as the job still
says what it said then. A job that is begun again gets an empty row, one that is cleared loses all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, select

from mondrian.storage.tables import feedback, jobs

TableRow = dict[str, Any]
FEEDBACK_COLUMNS = ("thumbs", "note", "verdict", "critique", "who")
_JOB_COLUMNS = (
    "photo_sha256",
    "side",
    "model_used",
    "adapter_version",
    "rollout",
)  # columns of the job
_MAX_HISTORY_ROWS = 100  # rows of a history


def add_feedback(
    engine: Engine, row: TableRow, values: TableRow, served: Mapping[str, str | None]
) -> bool:
    """Add what a person says of a job; False where it is no longer as `row` has it.

    values    what is said now, by names of SAID; what is not in it stays as it was
    served  advisors it is said of, each with the canonical critique as served, if it is one
    """
    with engine.begin() as connection:
        now = select(jobs).where(jobs.c.id == row["id"]).with_for_update()
        job = connection.execute(now).mappings().first()
        if job is None or any(job[n] != row[n] for n in ("status", "completed_at")):
            return False
        before = _select_newest(connection, feedback.c.job == row["id"])
        for advisor, original in served.items():
            old = _previous_feedback(dict(job), before.get((row["id"], advisor)), original)
            connection.execute(
                feedback.insert(),
                {
                    "job": row["id"],
                    "advisor": advisor,
                    "at": time.time(),
                    "original": original,
                    **{name: job[name] for name in _JOB_COLUMNS},
                    **_merge_values(old, values),
                },
            )
        on_job: TableRow = {name: values[name] for name in ("thumbs", "note") if name in values}
        if on_job:  # of several advisors the last word stands there
            connection.execute(jobs.update().where(jobs.c.id == row["id"]), on_job)
    return True


def load_newest_feedback(engine: Engine, ids: Iterable[str]) -> dict[tuple[str, str], TableRow]:
    """The newest row of each job and advisor."""
    with engine.execution_options(reads=True).begin() as connection:
        return _select_newest(connection, feedback.c.job.in_(list(ids)))


def load_rollout_feedback(engine: Engine, rollout: str) -> dict[tuple[str, str], TableRow]:
    """The same of all jobs of a roll-out."""
    with engine.execution_options(reads=True).begin() as connection:
        return _select_newest(connection, feedback.c.rollout == rollout)


def load_feedback_history(engine: Engine, id: str) -> list[TableRow]:
    """All that was said of a job, the newest first."""
    query = select(feedback).where(feedback.c.job == id).order_by(feedback.c.number.desc())
    with engine.execution_options(reads=True).begin() as connection:
        return [dict(row) for row in connection.execute(query.limit(_MAX_HISTORY_ROWS)).mappings()]


def withdraw_feedback(connection: Connection, id: str) -> None:
    """Nothing that was said of a job counts from now on; it stays in the history."""
    columns = ("job", "advisor", "rollout")
    query = select(*(feedback.c[n] for n in columns)).where(feedback.c.job == id).distinct()
    for row in connection.execute(query).mappings().all():
        connection.execute(feedback.insert(), {**row, "at": time.time()})


def delete_feedback(connection: Connection, ids: Select[tuple[Any]]) -> None:
    """Delete what was said of jobs."""
    connection.execute(feedback.delete().where(feedback.c.job.in_(ids)))


def _select_newest(
    connection: Connection, of: ColumnElement[bool]
) -> dict[tuple[str, str], TableRow]:
    last = select(func.max(feedback.c.number)).where(of)
    last = last.group_by(feedback.c.job, feedback.c.advisor)
    rows = connection.execute(select(feedback).where(feedback.c.number.in_(last))).mappings()
    return {(row["job"], row["advisor"]): dict(row) for row in rows}


def _previous_feedback(
    job: TableRow, feedback_row: TableRow | None, original: str | None
) -> TableRow:
    """What was said until now of the text that is there now."""
    if feedback_row and feedback_row["original"] == original:
        return feedback_row
    several = "," in (job["advisor"] or "")
    return {} if several else {"thumbs": job["thumbs"], "note": job["note"]}


def _merge_values(old: TableRow, values: Mapping[str, Any]) -> TableRow:
    row = {name: old.get(name) for name in FEEDBACK_COLUMNS} | dict(values)
    if "verdict" in values:
        row["who"] = values.get("who")
    elif old.get("verdict"):  # a verdict keeps the name of who gave it
        row["who"] = old["who"]
    if values.get("thumbs") == -1 and "verdict" not in values and row["verdict"] == "accepted":
        row["verdict"] = None  # who dislikes it does not want it learned as it stands
    return row
