"""Jobs of a rollout -> observations, one per job, in the order in which the jobs ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, or_, select

from mondrian.core.fields import parse_timestamp
from mondrian.storage.feedback import load_rollout_feedback
from mondrian.storage.job_reader import read_rows
from mondrian.storage.jobs import COMPLETED_STATUSES, ENDED_BY_CLIENT, FAILED_STATUSES
from mondrian.storage.tables import CANDIDATE, jobs

_COLUMNS = (
    "id kind subject pair_of side share step status error queued_at completed_at model_used "
    "compliant retry_count latency_seconds tokens thumbs"
).split()


@dataclass(frozen=True)
class Observation:
    """A job that was assigned to an arm.

    share         probability of assignment to the candidate
    outcome       completed, failed, disconnected (the client left or stopped it) or open
    queued_at, ended_at, rated_at
                  seconds since 1970; inf if it has not happened yet
    latency       seconds to the critique; for a disconnected client the time until it left, a
                  lower bound
    thumbs        1 up, -1 down, None if not rated
    accepted      whether a person accepted the critique unchanged; None if not reviewed
    score_change  mean points by which a person changed its seven scores
    was_retried   an earlier try failed
    """

    id: str
    is_shadow: bool
    client: str
    pair_of: str
    is_candidate: bool
    share: float
    step: int
    outcome: str
    queued_at: float
    ended_at: float
    rated_at: float
    used_fallback: bool
    compliant: bool | None
    latency: float | None
    tokens: int | None
    thumbs: int | None
    accepted: bool | None
    score_change: float | None
    was_retried: bool = False

    @property
    def has_rating(self) -> bool:
        return self.thumbs is not None or self.accepted is not None


def load_observations(engine: Engine, rollout: str, since: float) -> list[Observation]:
    """Return all jobs of a rollout that were queued since a time (seconds since 1970).

    Jobs that another version answered are left out: it was pulled between assignment and answer.
    """
    is_own_version = or_(
        jobs.c.side != CANDIDATE,
        jobs.c.adapter_version.is_(None),
        jobs.c.adapter_version == rollout.partition("/")[2],
    )
    feedback_by_job = {job: row for (job, _), row in load_rollout_feedback(engine, rollout).items()}
    query = select(*(jobs.c[name] for name in _COLUMNS)).where(
        jobs.c.rollout == rollout,
        jobs.c.queued_at >= since,
        jobs.c.side.is_not(None),
        jobs.c.share.is_not(None),
        jobs.c.step.is_not(None),
        is_own_version,
    )
    with engine.execution_options(reads=True).begin() as connection:
        rows = read_rows(connection.execute(query))
    observations = [
        _build_observation(row, feedback_by_job.get(row["id"]))
        for row in rows
        if None not in (row["queued_at"], row["share"], row["step"])  # else it is damaged
    ]
    return sorted(observations, key=lambda obs: (obs.ended_at, obs.queued_at, obs.id))


def _build_observation(row: Mapping[str, Any], feedback: Mapping[str, Any] | None) -> Observation:
    is_candidate, outcome = row["side"] == CANDIDATE, _outcome(row["status"], row["error"])
    is_completed = outcome == "completed"
    ended_at = parse_timestamp(row["completed_at"]) or float("inf")
    verdict = feedback["verdict"] if feedback and is_completed else None
    return Observation(
        id=row["id"],
        is_shadow=row["kind"] == "shadow",
        client=row["subject"] or row["id"],
        pair_of=row["pair_of"] or "",
        is_candidate=is_candidate,
        share=row["share"],
        step=row["step"],
        outcome=outcome,
        queued_at=row["queued_at"],
        ended_at=ended_at,
        rated_at=feedback["at"] if feedback and feedback["at"] else ended_at,
        used_fallback=is_candidate and is_completed and (row["model_used"] or "").endswith("base"),
        compliant=None if row["compliant"] is None or not is_completed else bool(row["compliant"]),
        latency=_latency(row, outcome, ended_at),
        tokens=row["tokens"] if is_completed else None,
        thumbs=(row["thumbs"] or None) if is_completed else None,
        accepted=None if verdict is None else verdict == "accepted",
        was_retried=bool(row["retry_count"]),
        score_change=mean_score_change(feedback["original"], feedback["critique"])
        if feedback and verdict
        else None,
    )


def _outcome(status: str, error: str | None) -> str:
    if status in COMPLETED_STATUSES:
        return "completed"
    if status in FAILED_STATUSES:
        return "disconnected" if error in ENDED_BY_CLIENT else "failed"
    return "open"


def _latency(row: Mapping[str, Any], outcome: str, ended_at: float) -> float | None:
    if outcome == "disconnected":
        return max(0.0, ended_at - row["queued_at"]) if ended_at < float("inf") else None
    return row["latency_seconds"] if outcome == "completed" else None


def mean_score_change(original: str | None, corrected: str | None) -> float | None:
    """Return the mean points by which the seven scores were changed; 0 without a correction."""
    if not corrected:
        return 0.0
    try:
        before, after = (
            [float(dimension["score"]) for dimension in json.loads(text or "")["dimensions"]]
            for text in (original, corrected)
        )
    except (ValueError, KeyError, TypeError):
        return None
    return sum(abs(a - b) for a, b in zip(after, before, strict=False)) / max(1, len(before))
