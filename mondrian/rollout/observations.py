"""Jobs of a roll-out -> what the numbers are made of: one `Observation` a job, in the order it
ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, or_, select

from mondrian.core.fields import parse_timestamp
from mondrian.storage.feedback import load_rollout_feedback
from mondrian.storage.jobs import CLIENT_DISCONNECTED, COMPLETED_STATUSES
from mondrian.storage.tables import CANDIDATE, jobs

_COLUMNS = (
    "id",
    "kind",
    "subject",
    "pair_of",
    "side",
    "share",
    "step",
    "status",
    "error",
    "queued_at",
    "completed_at",
    "model_used",
    "compliant",
    "retry_count",
    "latency_seconds",
    "tokens",
    "thumbs",
)


@dataclass(frozen=True)
class Observation:
    """One job that was dealt to an arm.

    outcome    completed, failed, gone (the client went away: nobody's fault) or open
    share      chance with which it was dealt to the candidate
    queued_at      seconds since 1970, as are ended and judged (by a person); inf where that is
    not yet
    thumbs     1 up, -1 down, None where nobody said
    accepted   whether a person took it as it was; None where nobody decided
    seconds    to the critique; of one that is gone, until the client left: it took at least that
    tried_again  whether an answer of an earlier try was none
    moved      mean points by which a person moved its seven scores
    """

    id: str
    shadow: bool
    subject: str
    pair_of: str
    candidate: bool
    share: float
    step: int
    outcome: str
    queued_at: float
    ended: float
    judged: float
    fell_back: bool
    compliant: bool | None
    seconds: float | None
    tokens: int | None
    thumbs: int | None
    accepted: bool | None
    moved: float | None
    tried_again: bool = False


def load_observations(engine: Engine, rollout: str, since: float) -> list[Observation]:
    """Every job of a roll-out that was asked for since a time.

    But for those that another version answered: it was pulled between the draw and the answer.
    """
    own = or_(
        jobs.c.side != CANDIDATE,
        jobs.c.adapter_version.is_(None),
        jobs.c.adapter_version == rollout.partition("/")[2],
    )
    feedback_by_job = {job: row for (job, _), row in load_rollout_feedback(engine, rollout).items()}
    chosen = [jobs.c[name] for name in _COLUMNS]
    query = select(*chosen).where(
        jobs.c.rollout == rollout,
        jobs.c.queued_at >= since,
        jobs.c.side.is_not(None),
        jobs.c.share.is_not(None),
        jobs.c.step.is_not(None),
        own,
    )
    with engine.execution_options(reads=True).begin() as connection:
        rows = connection.execute(query).mappings().all()
    observations = [_build_observation(dict(row), feedback_by_job.get(row["id"])) for row in rows]
    return sorted(observations, key=lambda obs: (obs.ended, obs.queued_at, obs.id))


def _build_observation(row: Mapping[str, Any], feedback: Mapping[str, Any] | None) -> Observation:
    candidate, outcome = row["side"] == CANDIDATE, _outcome(row["status"], row["error"])
    done, never = row["status"] in COMPLETED_STATUSES, float("inf")
    ended = parse_timestamp(row["completed_at"]) or never
    verdict = feedback["verdict"] if feedback and done else None
    return Observation(
        id=row["id"],
        shadow=row["kind"] == "shadow",
        subject=row["subject"] or row["id"],
        pair_of=row["pair_of"] or "",
        candidate=candidate,
        share=row["share"],
        step=row["step"],
        outcome=outcome,
        queued_at=row["queued_at"],
        ended=ended,
        judged=feedback["at"] if feedback and feedback["at"] else ended,
        fell_back=candidate and done and (row["model_used"] or "").endswith("base"),
        compliant=bool(row["compliant"]) if done and row["compliant"] is not None else None,
        seconds=_seconds(row, outcome, ended),
        tokens=row["tokens"] if done else None,
        thumbs=(row["thumbs"] or None) if done else None,
        accepted=None if verdict is None else verdict == "accepted",
        tried_again=bool(row["retry_count"]),
        moved=mean_score_change(feedback["original"], feedback["critique"])
        if feedback and verdict
        else None,
    )


def _outcome(status: str, error: str | None) -> str:
    if status in COMPLETED_STATUSES:
        return "completed"
    if status == "failed":
        return "gone" if error == CLIENT_DISCONNECTED else "failed"
    return "open"


def _seconds(row: Mapping[str, Any], outcome: str, ended: float) -> float | None:
    if outcome == "gone":
        return max(0.0, ended - row["queued_at"]) if ended < float("inf") else None
    return row["latency_seconds"] if outcome == "completed" else None


def mean_score_change(original: str | None, corrected: str | None) -> float | None:
    """Mean points by which seven scores were changed; 0 where there is no correction."""
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
