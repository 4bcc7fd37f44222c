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

Row = dict[str, Any]
SAID = ("thumbs", "note", "verdict", "critique", "who")
_SEEN = ("photo_sha256", "side", "model_used", "adapter_version", "rollout")  # columns of the job
_MOST = 100  # rows of a history


def keep(engine: Engine, row: Row, told: Row, served: Mapping[str, str | None]) -> bool:
    """Add what a person says of a job; False where it is no longer as `row` has it.

    told    what is said now, by names of SAID; what is not in it stays as it was
    served  advisors it is said of, each with the canonical critique as served, if it is one
    """
    with engine.begin() as connection:
        now = select(jobs).where(jobs.c.id == row["id"]).with_for_update()
        found = connection.execute(now).mappings().first()
        if found is None or any(found[n] != row[n] for n in ("status", "completed_at")):
            return False
        before = _newest(connection, feedback.c.job == row["id"])
        for advisor, original in served.items():
            old = _before(dict(found), before.get((row["id"], advisor)), original)
            connection.execute(feedback.insert(), {
                "job": row["id"], "advisor": advisor, "at": time.time(), "original": original,
                **{name: found[name] for name in _SEEN}, **_merged(old, told),
            })  # fmt: skip
        on_job: Row = {name: told[name] for name in ("thumbs", "note") if name in told}
        if on_job:  # of several advisors the last word stands there
            connection.execute(jobs.update().where(jobs.c.id == row["id"]), on_job)
    return True


def newest(engine: Engine, ids: Iterable[str]) -> dict[tuple[str, str], Row]:
    """The newest row of each job and advisor."""
    with engine.execution_options(reads=True).begin() as connection:
        return _newest(connection, feedback.c.job.in_(list(ids)))


def newest_of(engine: Engine, rollout: str) -> dict[tuple[str, str], Row]:
    """The same of all jobs of a roll-out."""
    with engine.execution_options(reads=True).begin() as connection:
        return _newest(connection, feedback.c.rollout == rollout)


def history(engine: Engine, id: str) -> list[Row]:
    """All that was said of a job, the newest first."""
    query = select(feedback).where(feedback.c.job == id).order_by(feedback.c.number.desc())
    with engine.execution_options(reads=True).begin() as connection:
        return [dict(row) for row in connection.execute(query.limit(_MOST)).mappings()]


def withdraw(connection: Connection, id: str) -> None:
    """Nothing that was said of a job counts from now on; it stays in the history."""
    columns = ("job", "advisor", "rollout")
    said = select(*(feedback.c[n] for n in columns)).where(feedback.c.job == id).distinct()
    for one in connection.execute(said).mappings().all():
        connection.execute(feedback.insert(), {**one, "at": time.time()})


def forget(connection: Connection, ids: Select[tuple[Any]]) -> None:
    """Delete what was said of jobs."""
    connection.execute(feedback.delete().where(feedback.c.job.in_(ids)))


def _newest(connection: Connection, of: ColumnElement[bool]) -> dict[tuple[str, str], Row]:
    last = select(func.max(feedback.c.number)).where(of)
    last = last.group_by(feedback.c.job, feedback.c.advisor)
    rows = connection.execute(select(feedback).where(feedback.c.number.in_(last))).mappings()
    return {(row["job"], row["advisor"]): dict(row) for row in rows}


def _before(job: Row, said: Row | None, original: str | None) -> Row:
    """What was said until now of the text that is there now."""
    if said and said["original"] == original:
        return said
    several = "," in (job["advisor"] or "")
    return {} if several else {"thumbs": job["thumbs"], "note": job["note"]}


def _merged(old: Row, told: Mapping[str, Any]) -> Row:
    row = {name: old.get(name) for name in SAID} | dict(told)
    if "verdict" in told:
        row["who"] = told.get("who")
    elif old.get("verdict"):  # a verdict keeps the name of who gave it
        row["who"] = old["who"]
    if told.get("thumbs") == -1 and "verdict" not in told and row["verdict"] == "accepted":
        row["verdict"] = None  # who dislikes it does not want it learned as it stands
    return row
