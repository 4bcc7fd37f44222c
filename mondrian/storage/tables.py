"""The table `jobs` and those beside it; how one of today's applications gets what it lacks.

Tables and columns are only ever added, each may be empty, and every change is on record in
`mondrian_migrations`: who reads and writes the table as before notices nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    text,
)

CANDIDATE, CONTROL = "candidate", "control"  # sides of a roll-out

metadata = MetaData()

_TEXTS = (
    "filename",
    "advisor",
    "mode",
    "status",
    "created_at",
    "started_at",
    "completed_at",
    "current_step",
    "prompt",
    "llm_prompt",
    "analysis_markdown",
    "llm_thinking",
    "llm_outputs",
    "analysis_html",
    "summary_html",
    "advisor_bio",
    "advisor_bio_html",
    "model",
    "adapter",
    "error",
    # ours: who answered
    "model_used",
    "mode_used",
    "adapter_version",
    "fallback_reason",
    "experiment",
    "subject",
    # ours: whose work it is. kind is upload, direct or shadow; another program's rows have none
    "kind",
    "owner",
    "idempotency_key",
    "photo_sha256",
    "pair_of",
    "note",
    # ours: its place in a roll-out. side is control or candidate, as it was drawn
    "rollout",
    "side",
)
_INTEGERS = (
    "progress_percentage",
    "enable_rag",
    "retry_count",
    "tokens",
    "compliant",
    "fallback_occurred",
    "crashes",
    "strikes",
    "thumbs",
    "step",
)
_NUMBERS = (
    "latency_seconds",
    "first_token_seconds",
    "decode_seconds",
    "queued_at",
    "leased_until",
    "share",
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, Text) for name in _TEXTS),
    *(Column(name, Integer) for name in _INTEGERS),
    *(Column(name, Double) for name in _NUMBERS),
)
_INDEXES = (
    Index("mondrian_jobs_key", jobs.c.idempotency_key, unique=True),
    Index("mondrian_jobs_waiting", jobs.c.status, jobs.c.queued_at),
    Index("mondrian_jobs_pair", jobs.c.pair_of),
    Index("mondrian_jobs_rollout", jobs.c.rollout),
)
rollouts = Table(
    "mondrian_rollouts",
    metadata,
    Column("id", Text, primary_key=True),  # <advisor>/<version>
    *(
        Column(name, Text)
        for name in (
            "advisor",
            "version",
            "name",
            "folder",
            "control",
            "control_version",
            "control_folder",
            "state",
            "why",
        )
    ),
    Column("step", Integer),
    Column("revision", Integer),
    *(Column(name, Double) for name in ("began", "step_began", "evidence_from", "full_since")),
)
decisions = Table(
    "mondrian_decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    *(Column(name, Text) for name in ("rollout", "who", "action", "state", "why")),
    Column("step", Integer),
    Column("at", Double),
)
feedback = Table(  # rows are only added, and the newest of a job and advisor counts
    "mondrian_feedback",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    # verdict is accepted, corrected or NULL; critique is the corrected one; original as served
    *(
        Column(name, Text)
        for name in (
            "job",
            "advisor",
            "photo_sha256",
            "side",
            "model_used",
            "adapter_version",
            "rollout",
            "note",
            "verdict",
            "critique",
            "original",
            "who",
        )
    ),
    Column("thumbs", Integer),
    Column("at", Double),
    Index("mondrian_feedback_job", "job"),
)
_MIGRATIONS = Table(
    "mondrian_migrations",
    metadata,
    Column("applied_at", Text),
    Column("change", Text, primary_key=True),
)
_MIGRATION_LOCK_ID = 0x6D6F6E64  # of PostgreSQL, so that two services do not migrate at once


def migrate(engine: Engine) -> list[str]:
    """Make the table, or add what it lacks; what was changed."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK_ID}
            )
        _MIGRATIONS.create(connection, checkfirst=True)
        changes = _add_columns(connection)
        for table in (rollouts, decisions, feedback):
            if not inspect(connection).has_table(table.name):
                table.create(connection)
                changes.append(f"table {table.name}")
        for index in _INDEXES:
            index.create(connection, checkfirst=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for change in changes:
            connection.execute(_MIGRATIONS.insert(), {"applied_at": now, "change": change})
    return changes


def _add_columns(connection: Connection) -> list[str]:
    inspector = inspect(connection)
    if not inspector.has_table("jobs"):
        jobs.create(connection)
        return ["table jobs"]
    known = {column["name"].lower() for column in inspector.get_columns("jobs")}
    missing = [column for column in jobs.columns if column.name not in known]
    for column in missing:
        kind = column.type.compile(connection.dialect)
        connection.execute(text(f"ALTER TABLE jobs ADD COLUMN {column.name} {kind}"))
    return [f"column jobs.{column.name}" for column in missing]
