"""The tables of the jobs database, and their migration.

A migration only adds tables and nullable columns, so other programs can still use the table
`jobs`. Every change is recorded in `mondrian_migrations`.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mondrian.core.errors import DataError

CANDIDATE, CONTROL = "candidate", "control"  # sides of a rollout


def utc_timestamp() -> str:
    """Return the current time as the text columns hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class StoredText(sa.types.TypeDecorator[str]):
    """Text. SQLite stores any value in any column: what is no text is read as text."""

    impl, cache_ok = sa.Text, True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        if value is None or isinstance(value, str):
            return value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _columns(column_type: type[sa.types.TypeEngine[Any]], names: str) -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, column_type) for name in names.split())


metadata = sa.MetaData()
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", StoredText, primary_key=True),
    *_columns(
        StoredText,
        "filename advisor mode status created_at started_at completed_at current_step prompt "
        "llm_prompt analysis_markdown llm_thinking llm_outputs analysis_html summary_html "
        "advisor_bio advisor_bio_html model adapter error",
    ),
    # added by Mondrian: which model answered
    *_columns(
        StoredText, "model_used mode_used adapter_version fallback_reason experiment subject"
    ),
    # added: processing; kind is upload, direct or shadow, and NULL in rows of other programs
    *_columns(StoredText, "kind owner idempotency_key photo_sha256 pair_of note"),
    # added: time of the last change, which existing clients read; set by each insert and update
    sa.Column("last_activity", StoredText, default=utc_timestamp, onupdate=utc_timestamp),
    # added: the camera's settings as JSON
    *_columns(StoredText, "exposure"),
    # added: assignment in a rollout; side is CANDIDATE or CONTROL
    *_columns(StoredText, "rollout side"),
    *_columns(
        sa.Integer,
        "progress_percentage enable_rag retry_count tokens compliant fallback_occurred crashes "
        "strikes thumbs step",
    ),
    *_columns(
        sa.Double, "latency_seconds first_token_seconds decode_seconds queued_at leased_until share"
    ),
    sa.Column("score", sa.Double),  # added: overall score; the mean of several advisors
)
_INDEXES = (
    sa.Index("mondrian_jobs_key", jobs.c.idempotency_key, unique=True),
    sa.Index("mondrian_jobs_waiting", jobs.c.status, jobs.c.queued_at),
    sa.Index("mondrian_jobs_newest", jobs.c.queued_at, jobs.c.id, jobs.c.kind),
    # with kind: of two indexes that fit as well, SQLite takes one by the order of their creation
    sa.Index("mondrian_jobs_second", jobs.c.pair_of, jobs.c.kind),
    sa.Index("mondrian_jobs_rollout", jobs.c.rollout),
    sa.Index("mondrian_jobs_history", jobs.c.kind, jobs.c.queued_at, jobs.c.id, jobs.c.pair_of),
)
rollouts = sa.Table(
    "mondrian_rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # <advisor>/<version>
    *_columns(
        sa.Text, "advisor version name folder control control_version control_folder state why"
    ),
    *_columns(sa.Integer, "step revision"),
    *_columns(sa.Double, "began step_began evidence_from full_since"),
)
decisions = sa.Table(
    "mondrian_decisions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    *_columns(sa.Text, "rollout who action state why"),
    sa.Column("step", sa.Integer),
    sa.Column("at", sa.Double),
)
feedback = sa.Table(  # rows are only added; the newest row of a job and advisor counts
    "mondrian_feedback",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    # verdict is accepted, corrected or NULL; critique is the corrected one, original the served one
    *_columns(
        StoredText,
        "job advisor photo_sha256 side model_used adapter_version rollout note verdict critique "
        "original who",
    ),
    sa.Column("thumbs", sa.Integer),
    sa.Column("at", sa.Double),
    sa.Index("mondrian_feedback_job", "job"),
)
preferences = sa.Table(  # rows are only added; the newest row of a pair counts
    "mondrian_preferences",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    # left and right are ids of jobs about the same photo; choice is left, right or equal
    *_columns(StoredText, "advisor left_job right_job choice"),
    sa.Column("at", sa.Double),
    sa.Index("mondrian_preferences_jobs", "left_job", "right_job"),
)
_MIGRATIONS = sa.Table(
    "mondrian_migrations",
    metadata,
    sa.Column("applied_at", sa.Text),
    sa.Column("change", sa.Text, primary_key=True),
)
_MIGRATION_LOCK_ID = 0x6D6F6E64  # in PostgreSQL: two services must not migrate at the same time


def check_jobs_table(engine: sa.Engine, name: str) -> None:
    """Raise DataError if the database `name` has no table of jobs."""
    if not sa.inspect(engine).has_table(jobs.name):
        raise DataError(
            f"{name} has no table {jobs.name}: it is not a database of the service; "
            "give the file or the URL that mondrian serve has as --db"
        )


def migrate(engine: sa.Engine) -> list[str]:
    """Create the tables, columns and indexes that are missing; return the changes."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK_ID}
            )
        _MIGRATIONS.create(connection, checkfirst=True)
        changes = _add_columns(connection)
        for table in (rollouts, decisions, feedback, preferences):
            if not sa.inspect(connection).has_table(table.name):
                table.create(connection)
                changes.append(f"table {table.name}")
        for index in _INDEXES:
            index.create(connection, checkfirst=True)
        connection.execute(sa.text("DROP INDEX IF EXISTS mondrian_jobs_pair"))  # of older versions
        if "column jobs.score" in changes:
            _fill_scores(connection)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for change in changes:
            connection.execute(_MIGRATIONS.insert(), {"applied_at": now, "change": change})
    return changes


def _add_columns(connection: sa.Connection) -> list[str]:
    inspector = sa.inspect(connection)
    if not inspector.has_table("jobs"):
        jobs.create(connection)
        return ["table jobs"]
    existing = {column["name"].lower() for column in inspector.get_columns("jobs")}
    missing = [column for column in jobs.columns if column.name not in existing]
    for column in missing:
        column_type = column.type.compile(connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE jobs ADD COLUMN {column.name} {column_type}"))
    return [f"column jobs.{column.name}" for column in missing]


def _fill_scores(connection: sa.Connection) -> None:
    """Set the scores of critiques that an older version of Mondrian stored."""
    query = sa.select(jobs.c.id, jobs.c.llm_outputs)
    rows = connection.execute(query.where(jobs.c.kind.is_not(None), jobs.c.status == "completed"))
    for id, llm_outputs in rows.all():
        try:
            score = float(json.loads(llm_outputs)["analysis"]["overall_score"])
        except (KeyError, TypeError, ValueError, RecursionError):
            continue  # of several advisors, or damaged
        connection.execute(jobs.update().where(jobs.c.id == id), {"score": score})
