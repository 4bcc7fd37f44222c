"""A roll-out -> one report, plain JSON: how it stands, why, and every number behind that.

The page, the command, the API and the CSV all show this and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mondrian.rollout.assessment import (
    Assessment,
    assess,
    check_assignment,
    count_exposure,
    first_observations,
)
from mondrian.rollout.config import RolloutConfig
from mondrian.rollout.decision import STATUS_MEANINGS, decide
from mondrian.rollout.metrics import METRICS
from mondrian.rollout.observations import Observation, load_observations
from mondrian.rollout.sample_ratio import MISMATCH_LEVEL
from mondrian.rollout.store import BACK, RolloutRecord, RolloutStore
from mondrian.rollout.time_series import build_metric_series, interval_to_json, round_or_none

RolloutReport = dict[str, Any]


def build_rollout_report(
    rollouts: RolloutStore, settings: RolloutConfig | None, entry: RolloutRecord, now: float
) -> RolloutReport:
    """Everything about a roll-out.

    settings  None where nobody knows them: then there is no verdict, no limit and no plan
    now       seconds since 1970
    """
    observations = load_observations(rollouts.engine, entry.id, entry.evidence_from)
    live_jobs = [obs for obs in observations if not obs.shadow]
    payload = {
        "rollout": entry.id,
        "advisor": entry.advisor,
        "version": entry.version,
        "name": entry.name,
        "control": entry.control,
        "state": entry.state,
        "why": entry.why,
        "revision": entry.revision,
        "at": iso_timestamp(now),
        "began": iso_timestamp(entry.began),
        "evidence_from": iso_timestamp(entry.evidence_from),
        "full_since": iso_timestamp(entry.full_since),
        "exposure": {
            "candidate": asdict(count_exposure(live_jobs, True)),
            "control": asdict(count_exposure(live_jobs, False)),
            "dealt": _summarize_assignment(live_jobs),
        },
        "fairness": _report_assignment_check(live_jobs),
        "metrics": build_metric_series(observations),
        "decisions": [
            asdict(decision) | {"at": iso_timestamp(decision.at)}
            for decision in rollouts.list_decisions(entry.id)
        ],
        "verdict": None,
        "step": None,
        "steps": [],
        "guardrails": [],
        "success": None,
    }
    if settings is not None:
        assessment = assess(observations, settings, entry.step)
        payload |= _report_verdict(assessment, entry, settings, now) | _report_steps(
            assessment, entry, settings, now
        )
    return payload


def split_newest(
    rollouts: RolloutStore, advisor: str = ""
) -> tuple[list[RolloutRecord], list[RolloutRecord]]:
    """(the newest roll-out of each advisor, or of one; those before), each the newest first."""
    new: dict[str, RolloutRecord] = {}
    old = []
    for entry in rollouts.list_rollouts():
        if advisor in ("", entry.advisor) and new.setdefault(entry.advisor, entry) is not entry:
            old.append(entry)
    return list(new.values()), old


def iso_timestamp(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO text, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _report_verdict(
    assessment: Assessment, entry: RolloutRecord, settings: RolloutConfig, now: float
) -> RolloutReport:
    verdict, success = decide(assessment, entry, settings, now), assessment.success
    guards = [
        asdict(guard) | {"found": interval_to_json(guard.found)} for guard in assessment.guards
    ]
    return {
        "verdict": {
            "status": str(verdict.status),
            "meaning": STATUS_MEANINGS[verdict.status],
            "action": verdict.action,
            "why": verdict.why,
        },
        "guardrails": guards,
        "success": {
            "metric": success.metric,
            "told": METRICS[success.metric].description,
            "margin": success.margin,
            "verdict": success.verdict,
            "difference": interval_to_json(success.difference),
            "paired": interval_to_json(success.paired),
        },
    }


def _report_steps(
    assessment: Assessment, entry: RolloutRecord, settings: RolloutConfig, now: float
) -> RolloutReport:
    """Where it is among its steps, and what the step asks for."""
    here = min(entry.step, len(settings.steps) - 1)
    current_status = "stopped" if entry.state == BACK else "here"
    places = [
        "done" if i < here else current_status if i == here else "to come"
        for i in range(len(settings.steps))
    ]
    steps = [
        planned_step.model_dump() | {"place": place}
        for planned_step, place in zip(settings.steps, places, strict=True)
    ]
    hours = max(0.0, now - entry.step_began) / 3600
    step = {
        "number": here + 1,
        "of": len(steps),
        "share": 0.0 if entry.state == BACK else settings.steps[here].share,
        "began": iso_timestamp(entry.step_began),
        "hours": round(hours, 2),
        "hours_asked": settings.steps[here].hours,
        "jobs": assessment.step_jobs,
        "jobs_asked": settings.steps[here].jobs,
        "asks": settings.steps[here].requires,
        "automatic": settings.automatic,
    }
    return {"step": step, "steps": steps}


def _summarize_assignment(observations: Sequence[Observation]) -> RolloutReport:
    """Clients that were dealt by lot: the share meant for the candidate and what it got."""
    assigned = [client for client in first_observations(observations) if 0 < client.share < 1]
    if not assigned:
        return {"clients": 0, "meant": None, "got": None}
    expected = sum(client.share for client in assigned) / len(assigned)
    got = sum(client.candidate for client in assigned) / len(assigned)
    return {"clients": len(assigned), "meant": round_or_none(expected), "got": round_or_none(got)}


def _report_assignment_check(observations: Sequence[Observation]) -> RolloutReport:
    mismatch, double, clients = check_assignment(observations)
    return {
        "mismatch": round_or_none(mismatch),
        "alarm": round(1 / MISMATCH_LEVEL, 6),
        "both_arms": double,
        "clients": clients,
    }
